"""The manifest of an artifact: what it holds, what it needs, how each file is checked.

::

    {"schema": 1, "kopt": "0.1.0", "name": "resnet50", "program": "<sha256>",
     "files": {"weights.safetensors": {"size": 102228128, "sha256": ["<block>", ...]}, ...},
     "requirements": {"device": "cpu", "arch": "x86_64", "isa": "native", "features": ["avx2", ...], "compilers": {"xla": "jaxlib 0.10.2"}},
     "signature": {"inputs": [{"name": "x", "dtype": "f32", "shape": ["N", 3, 224, 224]}], "outputs": [...]},
     "programs": [{"backend": "xla", "signature": {...}, "values": {}, "native": "native/0.bin", "portable": "portable/0.stablehlo",
                   "weights": [["conv1.weight", "conv1.weight"], ...]}],
     "rows": {"inputs": {"x": 0}, "outputs": {"y": 0}}, "config": {...}, "provenance": {...}}

Inputs and outputs that are no tensors say what is around these, from the outside in: ``"in": ["optional", "sequence"]``, or
``"in": ["sequence", "map:i64"]`` with the type of the keys.

Files are hashed in blocks of 4 MiB so that several cores can check one large file at the same time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from kopt.errors import CorruptArtifactError, IncompatibleArtifactError
from kopt.ir.types import DType, TensorType
from kopt.ir.wrappers import Wrappers, wrap
from kopt.targets.base import Signature

SCHEMA = 1
BLOCK_BYTES = 4 << 20
MAX_MANIFEST_BYTES = 64 << 20
MAX_FILES = 4096
MAX_WRAPPERS = 8

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.sha256"
MODEL = "model.onnx"
WEIGHTS = "weights.safetensors"
SELF_TEST = "selftest.safetensors"
REPORT = "report.json"

_RECOMPILE = "compile the model again, or restore the artifact from where it came"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Size in bytes of a file, and the sha256 of each of its blocks."""

    size: int
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class Requirements:
    """What a machine must offer before native code may be loaded.

    Attributes:
        device: "cpu" or "cuda".
        arch: processor or GPU architecture.
        isa: the instruction set the code was limited to, or "native".
        features: instruction set extensions the code may use.
        compilers: the exact version of each backend's compiler.
    """

    device: str
    arch: str
    isa: str
    features: tuple[str, ...]
    compilers: Mapping[str, str]


@dataclass(frozen=True)
class StoredProgram:
    """One compiled shape.

    Attributes:
        backend: whose code it is.
        signature: the inputs it takes and outputs it gives, all shapes static; inputs in ``values`` are no part of it.
        values: inputs that were made constants when compiling, because they decide shapes.
        native: path of the native code, or "".
        portable: path of the StableHLO, or "".
        weights: (name in the program, name in weights.safetensors), in argument order.
    """

    backend: str
    signature: Signature
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    native: str = ""
    portable: str = ""
    weights: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Rows:
    """That every row of a batch is computed from that row alone: the batch axis of each input and output."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True)
class Manifest:
    """Everything an artifact says about itself.

    Attributes:
        name: the model's name.
        program: digest of graph, weights, native code and configuration; equal programs have equal ones.
        signature: of the model; dimensions may be symbolic.
        rows: proven row independence, or None.
        config: how the programs were made (backend, passes, options), to make more of them.
        provenance: when, from what and by what; no part of ``program``.
    """

    name: str
    files: Mapping[str, StoredFile]
    requirements: Requirements
    signature: Signature
    programs: tuple[StoredProgram, ...]
    program: str = ""
    rows: Rows | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    kopt: str = ""

    def to_bytes(self) -> bytes:
        """Canonical JSON; equal manifests give equal bytes."""
        content = {
            "schema": SCHEMA,
            "kopt": self.kopt,
            "name": self.name,
            "program": self.program,
            "files": {path: {"size": entry.size, "sha256": list(entry.sha256)} for path, entry in self.files.items()},
            "requirements": {
                "device": self.requirements.device,
                "arch": self.requirements.arch,
                "isa": self.requirements.isa,
                "features": sorted(self.requirements.features),
                "compilers": dict(self.requirements.compilers),
            },
            "signature": signature_json(self.signature),
            "programs": [_program_json(program) for program in self.programs],
            "rows": None if self.rows is None else {"inputs": dict(self.rows.inputs), "outputs": dict(self.rows.outputs)},
            "config": self.config,
            "provenance": self.provenance,
        }
        return canonical_json(content)

    @classmethod
    def from_bytes(cls, raw: bytes, where: str = "") -> Manifest:
        """Parse and check a manifest whose digest was checked.

        Raises:
            IncompatibleArtifactError: another schema version.
            CorruptArtifactError: anything else that ``to_bytes`` would not have written.
        """
        try:
            content = json.loads(raw)
            schema = content["schema"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptArtifactError("the manifest is not valid JSON", where=where, next_step=_RECOMPILE) from error
        if schema != SCHEMA:
            raise IncompatibleArtifactError(
                f"the artifact has format version {schema}, this kopt reads version {SCHEMA}",
                where=where,
                next_step="compile the model again with this version of kopt",
            )
        try:
            return _parse(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"the manifest is malformed: {type(error).__name__}: {error}"
            raise CorruptArtifactError(what, where=where, next_step=_RECOMPILE) from error


def canonical_json(content: Any) -> bytes:
    """JSON with sorted keys and a final newline."""
    return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def program_digest(files: Mapping[str, StoredFile], signature: Signature, programs: tuple[StoredProgram, ...], config: Any) -> str:
    """What makes two artifacts the same program: graph, weights, native code and configuration.

    Report, self-test, times and provenance are left out, and so is the portable form, which follows from graph and configuration.
    """
    kept = {path: entry for path, entry in files.items() if path in (MODEL, WEIGHTS) or path.startswith("native/")}
    content = {
        "files": {path: [entry.size, *entry.sha256] for path, entry in kept.items()},
        "signature": signature_json(signature),
        "programs": [{**_program_json(program), "portable": ""} for program in programs],
        "config": config,
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()


def check_path(path: str) -> str:
    """``path`` when it is a plain relative POSIX path inside the artifact.

    Raises:
        ValueError: absolute, with "..", backslashes, control characters, or one of the manifest's own files.
    """
    parts = PurePosixPath(path).parts
    plain = path.isprintable() and not set("\\:") & set(path) and "/".join(parts) == path and ".." not in parts
    if not parts or not plain or path.startswith("/") or path in (MANIFEST, MANIFEST_DIGEST):
        raise ValueError(f"unusable file name {path!r}")
    return path


def signature_json(signature: Signature) -> dict[str, Any]:
    """A signature in JSON types."""

    def tensors(entries: tuple[tuple[str, TensorType], ...]) -> list[dict[str, Any]]:
        return [
            {"name": name, "dtype": str(tensor.dtype), "shape": None if tensor.shape is None else list(tensor.shape)}
            | ({"in": list(signature.around[name])} if name in signature.around else {})
            for name, tensor in entries
        ]

    return {"inputs": tensors(signature.inputs), "outputs": tensors(signature.outputs)}


def _program_json(program: StoredProgram) -> dict[str, Any]:
    values = {
        name: {"dtype": str(DType.from_numpy(array.dtype)), "shape": list(array.shape), "hex": array.tobytes().hex()}
        for name, array in program.values.items()
    }
    return {
        "backend": program.backend,
        "signature": signature_json(program.signature),
        "values": values,
        "native": program.native,
        "portable": program.portable,
        "weights": [list(pair) for pair in program.weights],
    }


def _parse(content: Mapping[str, Any]) -> Manifest:
    files = {check_path(path): _parse_file(entry) for path, entry in content["files"].items()}
    if len(files) > MAX_FILES:
        raise ValueError(f"{len(files)} files, at most {MAX_FILES} are accepted")
    needs = content["requirements"]
    requirements = Requirements(
        _text(needs["device"]),
        _text(needs["arch"]),
        _text(needs["isa"]),
        tuple(_text(feature) for feature in needs["features"]),
        {_text(name): _text(version) for name, version in needs["compilers"].items()},
    )
    rows = content["rows"]
    programs = tuple(_parse_program(program) for program in content["programs"])
    named = {path for program in programs for path in (program.native, program.portable) if path}
    if not named <= files.keys():
        raise ValueError(f"files that programs name are not listed: {sorted(named - files.keys())}")
    return Manifest(
        name=_text(content["name"]),
        files=files,
        requirements=requirements,
        signature=parse_signature(content["signature"], static=False),
        programs=programs,
        program=_text(content["program"]),
        rows=None if rows is None else Rows(_parse_axes(rows["inputs"]), _parse_axes(rows["outputs"])),
        config=dict(content["config"]),
        provenance=dict(content["provenance"]),
        kopt=_text(content["kopt"]),
    )


def _parse_file(entry: Mapping[str, Any]) -> StoredFile:
    size, blocks = _count(entry["size"]), tuple(_text(block) for block in entry["sha256"])
    if len(blocks) != max(1, -(-size // BLOCK_BYTES)):
        raise ValueError(f"{len(blocks)} digests for {size} bytes")
    return StoredFile(size, blocks)


def _parse_program(entry: Mapping[str, Any]) -> StoredProgram:
    return StoredProgram(
        _text(entry["backend"]),
        _parse_program_signature(entry["signature"]),
        {_text(name): _parse_value(value) for name, value in entry["values"].items()},
        _text(entry["native"]),
        _text(entry["portable"]),
        tuple((_text(name), _text(tensor)) for name, tensor in entry["weights"]),
    )


def _parse_program_signature(entry: Mapping[str, Any]) -> Signature:
    """Inputs have numbers for all dimensions; sizes of outputs may depend on values."""
    fed = parse_signature({"inputs": entry["inputs"], "outputs": []}, static=True)
    made = parse_signature({"inputs": [], "outputs": entry["outputs"]}, static=False)
    return Signature(fed.inputs, made.outputs, tuple(dict((*fed.wrappers, *made.wrappers)).items()))


def _parse_value(entry: Mapping[str, Any]) -> np.ndarray:
    dtype = DType(entry["dtype"]).numpy
    shape = tuple(_count(size) for size in entry["shape"])
    return np.frombuffer(bytes.fromhex(entry["hex"]), dtype).reshape(shape)


def parse_signature(entry: Mapping[str, Any], *, static: bool) -> Signature:
    """What ``signature_json`` gave.

    Args:
        entry: JSON types.
        static: whether every dimension must be a number.

    Raises:
        ValueError, KeyError, TypeError: it is something else.
    """

    def tensors(items: list[Mapping[str, Any]]) -> tuple[tuple[str, TensorType], ...]:
        return tuple(
            (_text(item["name"]), TensorType(DType(item["dtype"]), _parse_shape(item["shape"], static and "in" not in item)))
            for item in items
        )

    wrappers = {_text(item["name"]): _parse_wrappers(item["in"]) for kind in ("inputs", "outputs") for item in entry[kind] if "in" in item}
    return Signature(tensors(entry["inputs"]), tensors(entry["outputs"]), tuple(wrappers.items()))


def _parse_wrappers(words: Any) -> Wrappers:
    found = tuple(_text(word) for word in words)
    if not 0 < len(found) <= MAX_WRAPPERS:
        raise ValueError(f"{len(found)} wrappers around a tensor")
    wrap(TensorType(DType.F32, ()), found)  # which refuses words it does not know
    return found


def _parse_shape(shape: list[int | str] | None, static: bool) -> tuple[int | str, ...] | None:
    if shape is None and not static:
        return None
    if shape is None:
        raise ValueError("a compiled program has a value without shape")
    return tuple(dim if isinstance(dim, str) and not static else _count(dim) for dim in shape)


def _parse_axes(axes: Mapping[str, Any]) -> dict[str, int]:
    return {_text(name): _count(axis) for name, axis in axes.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, found {value!r}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"a count expected, found {value!r}")
    return value
