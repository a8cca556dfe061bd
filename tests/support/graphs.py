"""Small models and graphs from ONNX text, and what runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, parser
from onnx.reference import ReferenceEvaluator

from kopt.frontend.load import load
from kopt.ir.graph import Graph
from kopt.ir.types import DType, TensorType


def model(text: str, *, opset: int = 21, ir: int = 10, functions: Sequence[onnx.FunctionProto] = ()) -> onnx.ModelProto:
    """A model from the body of ONNX text, as in ``"m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"``."""
    proto = onnx.ModelProto(ir_version=ir, opset_import=[helper.make_opsetid("", opset)], graph=parser.parse_graph(text))
    proto.functions.extend(functions)
    return proto


def graph(text: str, *, opset: int = 21) -> Graph:
    """A loaded graph from ONNX text."""
    return load(model(text, opset=opset))


def node_model(
    op: str,
    inputs: Mapping[str, np.ndarray],
    *,
    opset: int,
    outputs: Sequence[str] = ("y",),
    constants: Sequence[str] = (),
    domain: str = "",
    **attrs: Any,
) -> onnx.ModelProto:
    """A model of one node; ``constants`` names the inputs that become initializers, "" stands for an absent one."""
    node = helper.make_node(op, list(inputs), list(outputs), name="node", domain=domain, **attrs)
    given = {name: array for name, array in inputs.items() if not name.startswith("absent")}
    node.input[:] = ["" if name.startswith("absent") else name for name in inputs]
    infos = [
        helper.make_tensor_value_info(name, DType.from_numpy(array.dtype).onnx, array.shape)
        for name, array in given.items()
        if name not in constants
    ]
    made = [onnx.ValueInfoProto(name=name) for name in outputs if name]
    weights = [onnx.numpy_helper.from_array(given[name], name) for name in constants]
    proto = helper.make_graph([node], "g", infos, made, weights)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=max(4, min(10, opset)))


def random_array(type_: TensorType, rng: np.random.Generator, dims: Mapping[str, int] | None = None) -> np.ndarray:
    """Standard normal floats, small integers, coin-toss booleans; symbolic dimensions from ``dims``, or 3."""
    shape = tuple((dims or {}).get(dim, 3) if isinstance(dim, str) else dim for dim in type_.shape or ())
    if type_.dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if type_.dtype.is_integer:
        return rng.integers(0, 4, shape).astype(type_.dtype.numpy)
    return rng.standard_normal(shape).astype(type_.dtype.numpy)


def random_inputs(source: Graph, seed: int = 0, dims: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Random arrays for every input of a graph."""
    rng = np.random.default_rng(seed)
    return {value.name: random_array(value.tensor, rng, dims) for value in source.inputs}


def run_ort(proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs by ONNX Runtime, one thread, nothing optimized."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = {info.name for info in session.get_inputs()}
    return session.run(None, {name: array for name, array in inputs.items() if name in wanted})


def run_reference(proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs by the reference evaluator."""
    return ReferenceEvaluator(proto).run(None, dict(inputs))
