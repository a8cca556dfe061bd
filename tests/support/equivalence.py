"""Checking rewrites by running both graphs.

Graphs are run by ``onnx.reference`` on a direct transcription of the graph, or by ONNX Runtime where an operator of
``com.microsoft`` is present. Operators of ``com.kopt`` are given as numpy functions in ``KOPT_OPS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from kopt.ir import spec
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import TensorType
from kopt.passes.base import Pass, PassContext
from kopt.passes.pipeline import Pipeline

KOPT_OPS: dict[str, type[OpRun]] = {}


def transcribe(graph: Graph) -> onnx.ModelProto:
    """The graph as an ONNX model, one to one; value names must be unique."""
    return helper.make_model(
        _graph_proto(graph, outer=False),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in spec.DOMAIN_VERSIONS.items()],
        ir_version=10,
    )


def _graph_proto(graph: Graph, *, outer: bool) -> onnx.GraphProto:
    return helper.make_graph(
        [_node_proto(node) for node in graph.nodes],
        graph.name or "graph",
        [helper.make_value_info(value.name, spec.type_to_proto(value.type)) for value in graph.inputs],
        [helper.make_value_info(value.name, spec.type_to_proto(value.type)) for value in graph.outputs],
        [spec.tensor_proto(constant.array(), value.name) for value, constant in graph.constants.items()],
    )


def _node_proto(node: Node) -> onnx.NodeProto:
    proto = helper.make_node(
        node.op,
        ["" if value is None else value.name for value in node.inputs],
        ["" if value is None else value.name for value in node.outputs],
        domain=node.domain,
    )
    for name, attr in node.attrs.items():
        if isinstance(attr, Graph):
            proto.attribute.append(helper.make_attribute(name, _graph_proto(attr, outer=True)))
        else:
            proto.attribute.append(spec.attr_to_proto(name, attr))
    return proto


def run_graph(graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of a graph, in order."""
    model = transcribe(graph)
    # onnx.reference gets transposed convolutions of several groups wrong
    if any(node.domain == "com.microsoft" or (node.op == "ConvTranspose" and node.attrs["group"] != 1) for _, node in graph.walk()):
        return _run_onnxruntime(model, inputs)
    names = {value.name for value in graph.inputs}
    feeds = {name: array for name, array in inputs.items() if name in names}
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model, new_ops=list(KOPT_OPS.values())).run(None, feeds)


def _run_onnxruntime(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime as ort

    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = 22  # the newest this ONNX Runtime knows; the operators tested are the same in both
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return session.run(None, {name: array for name, array in inputs.items() if name in names})


def evaluate_node(node: Node, arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    """One node by ``onnx.reference``: what the compiler injects as ``PassContext.evaluate_node``."""
    inputs = tuple(
        None if array is None else Value(f"i{k}", value.type) for k, (array, value) in enumerate(zip(arrays, node.inputs, strict=True))
    )
    graph = Graph(
        "node",
        tuple(value for value in inputs if value is not None),
        tuple(v for v in node.outputs if v is not None),
        (node.replace(inputs=inputs),),
    )
    return tuple(run_graph(graph, {f"i{k}": array for k, array in enumerate(arrays) if array is not None}))


def context() -> PassContext:
    """A context that can evaluate single nodes."""
    return PassContext(evaluate_node=evaluate_node)


def random_inputs(graph: Graph, rng: np.random.Generator, dims: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Random arrays for every input; symbolic dimensions take numbers from ``dims``, or 3."""
    return {value.name: random_array(value.tensor, rng, dims) for value in graph.inputs}


def random_array(type_: TensorType, rng: np.random.Generator, dims: Mapping[str, int] | None = None) -> np.ndarray:
    """A random array of a type."""
    shape = tuple((dims or {}).get(dim, 3) if isinstance(dim, str) else dim for dim in type_.shape or ())
    if type_.dtype.value == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if type_.dtype.is_integer:
        return rng.integers(0, 3, shape).astype(type_.dtype.numpy)
    return rng.standard_normal(shape).astype(type_.dtype.numpy)


def assert_same_outputs(before: Graph, after: Graph, inputs: Mapping[str, np.ndarray], *, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    """Both graphs, run on the same inputs, agree in names, element types, shapes and values."""
    assert [value.name for value in after.outputs] == [value.name for value in before.outputs]
    for value, expected, got in zip(before.outputs, run_graph(before, inputs), run_graph(after, inputs), strict=True):
        assert got.dtype == expected.dtype, f"{value.name}: {got.dtype} instead of {expected.dtype}"
        assert got.shape == expected.shape, f"{value.name}: {got.shape} instead of {expected.shape}"
        if expected.dtype == object:
            assert got.tolist() == expected.tolist()
        else:
            np.testing.assert_allclose(got, expected, atol=atol, rtol=rtol, err_msg=value.name)


def run_twice(passes: Pass | Sequence[Pass], graph: Graph, ctx: PassContext | None = None) -> Graph:
    """The transformed graph; running the same passes again must change nothing."""
    ctx = ctx or context()
    pipeline = Pipeline(tuple(passes) if isinstance(passes, Sequence) else (passes,))
    after, _ = pipeline.run(graph, ctx)
    again, _ = pipeline.run(after, context())
    assert again is after, f"a second run changes the graph: {[repr(node) for node in again.nodes]}"
    return after


def assert_rewrites(
    passes: Pass | Sequence[Pass],
    graph: Graph,
    *,
    ops: Sequence[str] | None = None,
    dims: Mapping[str, int] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-5,
    seed: int = 0,
    ctx: PassContext | None = None,
) -> Graph:
    """Run passes, compare both graphs on random inputs, and run the passes again expecting no change.

    Args:
        passes: one pass or several.
        graph: what to transform.
        ops: operators of the result in order, if given.
        dims: numbers for symbolic dimensions.
        inputs: arrays to feed instead of random ones.
        atol: absolute tolerance.
        rtol: relative tolerance.
        seed: of the random inputs.
        ctx: the context to run in, to look at its skips afterwards.
    """
    after = run_twice(passes, graph, ctx)
    assert after is not graph, "nothing was rewritten"
    if ops is not None:
        assert [node.op for node in after.nodes] == list(ops)
    feeds = dict(inputs) if inputs is not None else random_inputs(graph, np.random.default_rng(seed), dims)
    assert_same_outputs(graph, after, feeds, atol=atol, rtol=rtol)
    return after


def assert_unchanged(pass_: Pass, graph: Graph, ctx: PassContext | None = None) -> None:
    """The pass returns the very same graph."""
    assert pass_.run(graph, ctx or context()) is graph


def register_kopt_op(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a numpy function the meaning of a ``com.kopt`` operator when graphs are run here."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def _run(self: OpRun, *arrays: np.ndarray, **attrs: Any) -> tuple[Any, ...]:
            result = function(*arrays, **attrs)
            return result if isinstance(result, tuple) else (result,)

        KOPT_OPS[name] = type(name, (OpRun,), {"op_domain": "com.kopt", "_run": _run})
        return function

    return register
