"""ONNX's own node tests, run through import, binding of shapes, and XLA in this process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import ml_dtypes  # noqa: F401  (registers the narrow types with numpy)
import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

from kopt.frontend.load import load
from kopt.ir.graph import Graph
from kopt.ir.types import TensorType
from kopt.passes.base import PassContext
from kopt.passes.bind_shapes import BindShapes
from kopt.specialize import shape_inputs
from kopt.targets.reference import evaluate_node
from kopt.targets.xla import evaluate_graph


@lru_cache(maxsize=1)
def node_cases() -> dict[str, Any]:
    """All node tests by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx overflows on purpose while making its test data
        return {case.name: case for case in load_model_tests(kind="node")}


def ops_of(case: Any) -> frozenset[str]:
    """The operators of a case's model."""
    return frozenset(node.op_type for node in (case.proto() if hasattr(case, "proto") else case.model).graph.node)


def cases_of(*ops: str, without: Sequence[str] = ()) -> list[str]:
    """Names of the cases whose first node is one of ``ops``, expanded forms left out."""
    return [
        name
        for name, case in node_cases().items()
        if case.model.graph.node and case.model.graph.node[0].op_type in ops and name not in without and "_expanded" not in name
    ]


def _array(value: Any) -> Any:
    """Test data as an array; narrow types come as protos, sequences stay lists."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def bound(graph: Graph, arrays: Sequence[Any], *, known: bool = False) -> tuple[Graph, list[np.ndarray]]:
    """The graph with the shapes of ``arrays``, shape-deciding inputs made constant, and the arrays still to be fed.

    With ``known`` every input becomes a constant: operators whose results have the size of a value are compiled then.
    """
    fed = dict(zip((value.name for value in graph.inputs), arrays, strict=True))
    held = {name: np.asarray(fed[name]) for name in (fed if known else shape_inputs(graph))}
    shapes = {
        value.name: np.shape(fed[value.name]) for value in graph.inputs if value.name not in held and isinstance(value.type, TensorType)
    }
    ready = BindShapes(shapes=shapes, values=held).run(graph, PassContext(evaluate_node=evaluate_node))
    return ready, [np.asarray(fed[value.name]) for value in ready.inputs]


def check(name: str, *, known: bool = False) -> None:
    """Run one case on its test data.

    Raises:
        AssertionError: a result differs in type, shape or value.
        KoptError: the model does not compile.
    """
    case = node_cases()[name]
    graph = load(case.model)
    for inputs, outputs in case.data_sets:
        ready, fed = bound(graph, [_array(item) for item in inputs], known=known)
        results = evaluate_graph(ready, fed)
        assert len(results) == len(outputs)
        for result, expected in zip(results, outputs, strict=True):
            _same(result, _array(expected), case.rtol, case.atol)


def _same(result: np.ndarray, expected: Any, rtol: float, atol: float) -> None:
    assert not isinstance(expected, list | type(None)), "a sequence or an empty optional"
    expected = np.asarray(expected)
    assert result.dtype == expected.dtype, f"{result.dtype}, not {expected.dtype}"
    assert result.shape == expected.shape, f"{result.shape}, not {expected.shape}"
    if expected.dtype.kind == "V" or (expected.dtype.kind == "f" and expected.dtype.itemsize < 4):
        result, expected = result.astype(np.float32), expected.astype(np.float32)
    if expected.dtype.kind in "fc":
        np.testing.assert_allclose(result, expected, rtol=rtol, atol=atol)
    else:
        np.testing.assert_array_equal(result, expected)


def run_model(model: onnx.ModelProto, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """A model on concrete arrays, through import, binding of shapes, and XLA."""
    graph, fed = bound(load(model), arrays)
    return evaluate_graph(graph, fed)
