"""Types of ONNX Runtime's quantized operators (``com.microsoft``): those of the operator that they quantize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kopt.errors import InvalidModelError
from kopt.ir.graph import MICROSOFT, ONNX, Attr, Node, Value
from kopt.ir.spec import DOMAIN_VERSIONS, default_attrs, infer_node, type_rule
from kopt.ir.types import DType, TensorType, Type


@dataclass(frozen=True)
class _Base:
    """The ONNX operator that a quantized one stands for, and which inputs of the latter are its inputs."""

    op: str
    inputs: tuple[int, ...]
    attrs: tuple[str, ...] = ()


_POOL = ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "ceil_mode", "count_include_pad")
_CONV = ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "group")
_BASES = {
    "QLinearAdd": _Base("Add", (0, 3)),
    "QLinearMul": _Base("Mul", (0, 3)),
    "QLinearSigmoid": _Base("Identity", (0,)),
    "QLinearLeakyRelu": _Base("Identity", (0,)),
    "QLinearSoftmax": _Base("Identity", (0,)),
    "QLinearWhere": _Base("Where", (0, 1, 4)),
    "QLinearAveragePool": _Base("AveragePool", (0,), _POOL),
    "QLinearGlobalAveragePool": _Base("GlobalAveragePool", (0,)),
    "NhwcMaxPool": _Base("MaxPool", (0,), _POOL),
    "QLinearConv": _Base("Conv", (0, 3), _CONV),
    "DynamicQuantizeMatMul": _Base("MatMul", (0, 1)),
    "MatMulIntegerToFloat": _Base("MatMul", (0, 1)),
    "QGemm": _Base("Gemm", (0, 3), ("transA", "transB")),
}
_RESULT_LIKE = {"QLinearConv": 7, "MatMulIntegerToFloat": 2, "QLinearWhere": 1, "QGemm": 8}
"""The input that has the result's element type, where it is not the first."""


@type_rule(MICROSOFT, *_BASES)
def quantized_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The shape of the operator on floats, in the element type of the first input or of the result's zero point."""
    base = _BASES[node.op]
    last = node.op == "NhwcMaxPool" or bool(node.attrs.get("channels_last"))
    held = [_float(_type(types, index), to_first=last and index == 0, keep=base.op == "Where" and index == 0) for index in base.inputs]
    attrs = default_attrs(base.op) | {name: value for name, value in node.attrs.items() if name in base.attrs}
    like = _type(types, _RESULT_LIKE.get(node.op, 0))
    (result, *_) = _inferred(base.op, held, attrs, node)
    dtype = like.dtype if isinstance(like, TensorType) else DType.F32
    if not isinstance(result, TensorType) or result.shape is None:
        return (TensorType(dtype, None),)
    shape = (result.shape[0], *result.shape[2:], result.shape[1]) if last else result.shape
    return (TensorType(dtype, shape),)


def _type(types: Sequence[Type | None], index: int) -> Type | None:
    return types[index] if index < len(types) else None


def _float(type_: Type | None, *, to_first: bool, keep: bool) -> Type | None:
    """The type with f32 elements, its channels first."""
    if not isinstance(type_, TensorType) or keep:
        return type_
    shape = type_.shape
    if to_first and shape:
        shape = (shape[0], shape[-1], *shape[1:-1])
    return TensorType(DType.F32, shape)


def _inferred(op: str, types: Sequence[Type | None], attrs: Mapping[str, Attr], node: Node) -> tuple[Type, ...]:
    inputs = tuple(None if type_ is None else Value(f"i{index}", type_) for index, type_ in enumerate(types))
    return infer_node(Node(op, inputs, node.outputs[:1], attrs, node.loc, ONNX, DOMAIN_VERSIONS[ONNX]))


@type_rule(MICROSOFT, "QLinearConcat")
def concat_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """Concat of every third input from the third on."""
    held = [_float(type_, to_first=False, keep=False) for type_ in types[2::3]]
    (result,) = _inferred("Concat", held, {"axis": node.attrs.get("axis", 0)}, node)
    like = _type(types, 1)
    return (TensorType(like.dtype if isinstance(like, TensorType) else DType.U8, result.shape if isinstance(result, TensorType) else None),)


@type_rule(MICROSOFT, "QLinearReduceMean")
def reduce_mean_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The first input's type with the axes reduced."""
    first = _type(types, 0)
    if not isinstance(first, TensorType) or first.shape is None:
        return (first or TensorType(DType.U8, None),)
    rank = len(first.shape)
    named = node.attrs.get("axes")
    axes = {int(axis) for axis in named if isinstance(axis, int)} if isinstance(named, tuple) else set(range(rank))
    if any(not -rank <= axis < rank for axis in axes):
        raise InvalidModelError(
            f"{node.qualified_op} has no axis {sorted(axes)} to reduce in {first}", where=node.loc, next_step="correct its axes"
        )
    axes = {axis % rank for axis in axes} if rank else set()
    keep = bool(node.attrs.get("keepdims", 1))
    shape = tuple(1 if index in axes else dim for index, dim in enumerate(first.shape) if keep or index not in axes)
    return (TensorType(first.dtype, shape),)


@type_rule(MICROSOFT, "QuantizeLinear")
def quantize_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The first input's shape in the zero point's element type, u8 without one."""
    first, zero = _type(types, 0), _type(types, 2)
    shape = first.shape if isinstance(first, TensorType) else None
    return (TensorType(zero.dtype if isinstance(zero, TensorType) else DType.U8, shape),)


@type_rule(MICROSOFT, "DequantizeLinear")
def dequantize_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The first input's shape in the scale's element type."""
    first, scale = _type(types, 0), _type(types, 1)
    shape = first.shape if isinstance(first, TensorType) else None
    return (TensorType(scale.dtype if isinstance(scale, TensorType) else DType.F32, shape),)


@type_rule(MICROSOFT, "MatMulNBits")
def blocks_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The first input's type with N columns."""
    first = _type(types, 0)
    width = node.attrs.get("N")
    if not isinstance(first, TensorType) or not first.shape or not isinstance(width, int):
        return (TensorType(first.dtype if isinstance(first, TensorType) else DType.F32, None),)
    return (TensorType(first.dtype, (*first.shape[:-1], width)),)


@type_rule(MICROSOFT, "DynamicQuantizeLSTM")
def lstm_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """All states, the last one, and the last cell."""
    x, r = _type(types, 0), _type(types, 2)
    dtype = x.dtype if isinstance(x, TensorType) else DType.F32
    steps, sizes = (type_.shape if isinstance(type_, TensorType) else None for type_ in (x, r))
    if steps is None or sizes is None or len(steps) != 3 or len(sizes) != 3:
        return (TensorType(dtype, None),) * len(node.outputs)
    last = TensorType(dtype, (sizes[0], steps[1], sizes[1]))
    return (TensorType(dtype, (steps[0], sizes[0], steps[1], sizes[1])), last, last)[: len(node.outputs)]
