"""Writing artifacts: the model with its weights beside it, the compiled programs, tests, report and manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kopt.artifact import tensors
from kopt.artifact.manifest import (
    MODEL,
    REPORT,
    SELF_TEST,
    WEIGHTS,
    Manifest,
    Requirements,
    Rows,
    StoredProgram,
    canonical_json,
    program_digest,
)
from kopt.artifact.read import Artifact
from kopt.artifact.staging import Staging
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Value
from kopt.targets.base import Signature

EXTERNAL_BYTES = 1024
"""Constants of the model from this size on lie in weights.safetensors; smaller ones stay in model.onnx."""

_RESERVED = (tensors.PADDING_PREFIX, "__", "tensor.")


@dataclass(frozen=True)
class Program:
    """One compiled shape, to be stored.

    Attributes:
        backend: whose code it is.
        signature: all shapes static, without the inputs in ``values``.
        values: shape-deciding inputs that became constants.
        native: native code, empty where this machine could make none.
        portable: StableHLO, empty where there is none.
        weights: the arrays the program takes, in order.
    """

    backend: str
    signature: Signature
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    native: bytes = b""
    portable: bytes = b""
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """Everything an artifact is written from.

    Attributes:
        graph: the model as loaded, shapes unbound; other shapes are compiled from it later.
        programs: the compiled shapes.
        requirements: what the native code needs.
        rows: proven row independence, or None.
        config: how the programs were made, in JSON types.
        self_test: "<program>/input/<name>" and "<program>/output/<name>".
        report: in JSON types.
        provenance: when, from what and by what, in JSON types.
    """

    graph: Graph
    programs: Sequence[Program]
    requirements: Requirements
    rows: Rows | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    self_test: Mapping[str, np.ndarray] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write(contents: Contents, output: str | Path) -> Artifact:
    """Write an artifact; an existing one of that name is replaced in one step.

    Raises:
        UsageError: something that is not an artifact has that name.
        FileError: the file system refuses; nothing is left behind.
    """
    store = _WeightStore()
    external = {value: store.add(value.name, constant.array()) for value, constant in _external(contents.graph)}
    programs = []
    for index, program in enumerate(contents.programs):
        weights = tuple((name, store.add(name, array)) for name, array in program.weights.items())
        native = f"native/{index}.bin" if program.native else ""
        portable = f"portable/{index}.stablehlo" if program.portable else ""
        programs.append(StoredProgram(program.backend, program.signature, dict(program.values), native, portable, weights))
    with Staging(Path(output)) as staging:
        staging.add(WEIGHTS, tensors.pieces(store.tensors, store.layout))
        staging.add(MODEL, [_model(contents.graph, external, store)])
        for program, stored in zip(contents.programs, programs, strict=True):
            for path, code in ((stored.native, program.native), (stored.portable, program.portable)):
                if path:
                    staging.add(path, [code])
        if contents.self_test:
            staging.add(SELF_TEST, tensors.pieces(contents.self_test, tensors.layout(contents.self_test)))
        staging.add(REPORT, [canonical_json(contents.report)])
        signature = Signature.of(contents.graph)
        manifest = Manifest(
            name=contents.graph.name,
            files=dict(staging.files),
            requirements=contents.requirements,
            signature=signature,
            programs=tuple(programs),
            program=program_digest(staging.files, signature, tuple(programs), contents.config),
            rows=contents.rows,
            config=contents.config,
            provenance=contents.provenance,
            kopt=_version(),
        )
        staging.commit(manifest)
    return Artifact.just_written(Path(output))


def rewrite(
    artifact: Artifact,
    output: str | Path,
    *,
    report: Mapping[str, Any] | None = None,
    native: Mapping[int, bytes] | None = None,
    requirements: Requirements | None = None,
    self_test: Mapping[str, np.ndarray] | None = None,
) -> Artifact:
    """A copy of ``artifact`` with another report, or with native code for programs that had none.

    Args:
        artifact: what to copy; it may be the one at ``output``.
        output: where the result appears.
        report: replaces the report.
        native: code by position in ``artifact.manifest.programs``.
        requirements: what the new native code needs.
        self_test: replaces the self-test.

    Raises:
        UsageError: something that is not an artifact is at ``output``.
        FileError: the file system refuses.
    """
    old = artifact.manifest
    programs = list(old.programs)
    fresh: dict[str, list[bytes | memoryview]] = {}
    for index, code in (native or {}).items():
        programs[index] = replace(programs[index], native=f"native/{index}.bin")
        fresh[programs[index].native] = [code]
    if self_test is not None:
        fresh[SELF_TEST] = list(tensors.pieces(self_test, tensors.layout(self_test)))
    if report is not None:
        fresh[REPORT] = [canonical_json(report)]
    with Staging(Path(output)) as staging:
        for path, entry in old.files.items():
            if path not in fresh:
                staging.take(path, artifact.path / path, entry)
        for path, content in fresh.items():
            staging.add(path, content)
        digest = program_digest(staging.files, old.signature, tuple(programs), old.config)
        staging.commit(
            replace(
                old,
                files=dict(staging.files),
                programs=tuple(programs),
                program=digest,
                requirements=requirements or old.requirements,
            )
        )
    return Artifact.just_written(Path(output))


class _WeightStore:
    """The tensors of weights.safetensors; arrays of equal type and content are kept once."""

    def __init__(self) -> None:
        self.tensors: dict[str, np.ndarray] = {}
        self._by_place: dict[tuple[Any, ...], str] = {}
        self._by_digest: dict[str, str] = {}

    @cached_property
    def layout(self) -> tensors.Layout:
        """Where each tensor lies; no tensor may be added afterwards."""
        return tensors.layout(self.tensors)

    def add(self, name: str, array: np.ndarray) -> str:
        """The name under which ``array`` is stored."""
        place = (array.__array_interface__["data"][0], array.dtype.str, array.dtype.name, array.shape, array.strides)
        if array.nbytes and place in self._by_place:
            return self._by_place[place]
        digest = Constant.of(array).digest
        stored = self._by_digest.get(digest)
        if stored is None:
            stored = f"tensor.{digest}" if name in self.tensors or name.startswith(_RESERVED) else name
            self.tensors[stored] = array
            self._by_digest[digest] = stored
        self._by_place[place] = stored
        return stored


def _external(graph: Graph) -> list[tuple[Value, Constant]]:
    """Constants that are worth a place of their own."""
    from kopt.frontend.export import external_constants

    return [(value, graph.constants[value]) for value in external_constants(graph, EXTERNAL_BYTES)]


def _model(graph: Graph, external: Mapping[Value, str], store: _WeightStore) -> bytes:
    """The model as ONNX whose large initializers point into weights.safetensors."""
    from kopt.frontend.export import to_external_model

    places = {value: (WEIGHTS, store.layout.offsets[stored]) for value, stored in external.items()}
    model: Any = to_external_model(graph, places)
    return bytes(model.SerializeToString(deterministic=True))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("kopt")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"
