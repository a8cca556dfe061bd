"""ONNX's own test suites, run through ``kopt.onnx_backend`` under the official tolerances."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers the narrow types with numpy)
import numpy as np
import onnx
from onnx.backend.test.loader import DATA_DIR, load_model_tests

import kopt.onnx_backend as backend
from kopt.ir.graph import Node
from kopt.targets.host.registry import host_function
from kopt.targets.lowering.registry import lowering_of
from kopt.targets.lowering.walk import load_lowerings
from support.node_cases import node_cases

_RANDOM = re.compile("bernoulli|training_dropout(?!_zero_ratio)")  # of these only types and shapes are compared


@dataclass(frozen=True)
class Case:
    """One official case.

    Attributes:
        suite: "node-expanded" holds the node cases whose operator is written out as its function body.
        name: as ONNX calls it.
        path: of the model's file, None where it exists in memory only.
    """

    suite: str
    name: str
    rtol: float
    atol: float
    path: Path | None = None

    def model(self) -> Any:
        """What ``prepare`` or ``prepare_path`` takes."""
        return node_cases()[self.name].model if self.path is None else self.path

    def proto(self) -> onnx.ModelProto:
        """The model, for its operators."""
        return node_cases()[self.name].model if self.path is None else onnx.load(self.path, load_external_data=False)

    def data_sets(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs."""
        if self.path is None:
            yield from node_cases()[self.name].data_sets
        elif self.suite == "light":
            yield _light_data(self.path)
        else:
            for folder in sorted(self.path.parent.glob("test_data_set_*")):
                graph = onnx.load(self.path, load_external_data=False).graph
                yield _read(folder, "input", graph.input), _read(folder, "output", graph.output)


@lru_cache(maxsize=1)
def cases() -> dict[str, Case]:
    """All cases whose data the onnx package ships, by "suite/name"."""
    found = [Case("node-expanded" if "_expanded" in n else "node", n, c.rtol, c.atol) for n, c in node_cases().items()]
    for suite in ("simple", "pytorch-operator", "pytorch-converted"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found += [Case(suite, c.name, c.rtol, c.atol, Path(c.model_dir, "model.onnx")) for c in load_model_tests(kind=suite)]
    for folder in sorted(Path(DATA_DIR, "real").iterdir()):  # the models of this suite whose address is a file of the package
        about = json.loads((folder / "data.json").read_text())
        if about["url"].startswith("onnx/backend/test/data/light/"):
            path = Path(DATA_DIR, "light", Path(about["url"]).name)
            found.append(Case("light", folder.name, about.get("rtol", 1e-3), about.get("atol", 1e-7), path))
    return {f"{case.suite}/{case.name}": case for case in sorted(found, key=lambda case: (case.suite, case.name))}


def _light_data(path: Path) -> tuple[list[Any], list[Any]]:
    """The official runner feeds a ramp. Source: onnx.backend.test.runner, ``_add_model_test``."""
    graph = onnx.load(path).graph
    held = {tensor.name for tensor in graph.initializer}
    inputs = []
    for info in graph.input:
        if info.name not in held:
            shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
            size = int(np.prod(shape))
            inputs.append((np.arange(size).reshape(shape) / size).astype(np.float32))
    expected = onnx.TensorProto.FromString(path.with_name(f"{path.stem}_output_0.pb").read_bytes())
    return inputs, [onnx.numpy_helper.to_array(expected)]


def _read(folder: Path, kind: str, infos: Any) -> list[Any]:
    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
    return [_value(path.read_bytes(), info.type) for path, info in zip(files, infos, strict=False)]


def _value(content: bytes, type_: onnx.TypeProto) -> Any:
    if type_.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if type_.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content))


def category(case: Case) -> str:
    """The family of a node case's operator, as the lowerings and host functions are filed; the suite of another."""
    whole = node_cases().get(case.name.partition("_expanded")[0])  # the case before its operator was written out
    nodes = (whole.model if whole is not None else case.proto()).graph.node
    if case.path is not None or not nodes:
        return case.suite
    load_lowerings()
    first = nodes[0]
    node = Node(first.op_type, (), (), domain=first.domain)
    lowering, function = lowering_of(node), host_function(node)
    if lowering is not None:
        return lowering.function.__module__.rsplit(".", 1)[1]
    return function.__module__.rsplit(".", 1)[1] if function is not None else "other"


def check(case: Case) -> tuple[Any, ...]:
    """Run one case on its test data; gives the nodes that ran on the host.

    Raises:
        AssertionError: a result differs in type, shape or value.
        KoptError: the model does not compile.
    """
    model = case.model()
    prepared = backend.prepare_path(model) if isinstance(model, Path) else backend.prepare(model)
    for inputs, outputs in case.data_sets():
        results = prepared.run(list(inputs))
        assert len(results) == len(outputs), f"{len(results)} outputs, not {len(outputs)}"
        for result, expected in zip(results, outputs, strict=True):
            same(result, expected, case.rtol, case.atol, values=not _RANDOM.search(case.name))
    return tuple(prepared.host_nodes)


def same(result: Any, expected: Any, rtol: float, atol: float, *, values: bool = True) -> None:
    """The official comparison: type and shape exactly, floating-point values within tolerances."""
    if isinstance(expected, onnx.TensorProto):
        expected = onnx.numpy_helper.to_array(expected)
    if expected is None:
        assert result is None, "a value where there is none"
        return
    if isinstance(expected, list):
        assert isinstance(result, list), f"{type(result).__name__}, not a sequence"
        assert len(result) == len(expected), f"{len(result)} members, not {len(expected)}"
        for one, other in zip(result, expected, strict=True):
            same(one, other, rtol, atol, values=values)
        return
    expected = np.asarray(expected)
    assert result.dtype == expected.dtype or (result.dtype.kind == "O" and expected.dtype.kind in "OUT"), (
        f"{result.dtype}, not {expected.dtype}"
    )
    assert result.shape == expected.shape, f"{result.shape}, not {expected.shape}"
    if not values:
        return
    if expected.dtype.kind == "V" or (expected.dtype.kind == "f" and expected.dtype.itemsize < 4):
        result, expected = result.astype(np.float32), expected.astype(np.float32)
    if expected.dtype.kind in "fc":
        np.testing.assert_allclose(result, expected, rtol=rtol, atol=atol)
    else:
        np.testing.assert_array_equal(result, expected)
