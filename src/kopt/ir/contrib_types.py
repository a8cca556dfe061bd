"""Types of ONNX Runtime's own operators (``com.microsoft``) that models from its optimizer hold.

Most are an ONNX operator with a step fused to it, whose type is that of the ONNX operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kopt.ir.graph import MICROSOFT, ONNX, Node, Value
from kopt.ir.spec import DOMAIN_VERSIONS, default_attrs, infer_node, type_rule
from kopt.ir.types import DType, TensorType, Type


@type_rule(MICROSOFT, "Gelu", "FastGelu", "BiasGelu", "QuickGelu")
def same_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The type of the first input."""
    return (_first(types),)


def _first(types: Sequence[Type | None]) -> Type:
    return types[0] if types and types[0] is not None else TensorType(DType.F32, None)


_BASES = {"FusedConv": ("Conv", 3), "FusedGemm": ("Gemm", 3), "FusedMatMul": ("MatMul", 2)}


@type_rule(MICROSOFT, *_BASES)
def fused_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The type of the operator without what is fused to it; transposed operands of a product first turned."""
    op, count = _BASES[node.op]
    held = list(types[:count])
    if op == "MatMul":
        held = [_turned(type_, node, letter) for type_, letter in zip(held, "AB", strict=True)]
    defaults = default_attrs(op)
    known = {"strides", "pads", "dilations", "group", "auto_pad", "kernel_shape"} if op == "Conv" else {"transA", "transB"}
    attrs = {**defaults, **{name: value for name, value in node.attrs.items() if op != "MatMul" and name in known}}
    inputs = tuple(None if type_ is None else Value(f"i{index}", type_) for index, type_ in enumerate(held))
    return infer_node(Node(op, inputs, node.outputs, attrs, node.loc, ONNX, DOMAIN_VERSIONS[ONNX]))


def _turned(type_: Type | None, node: Node, letter: str) -> Type | None:
    if not isinstance(type_, TensorType) or type_.shape is None or len(type_.shape) < 2:
        return type_
    shape = list(type_.shape)
    if node.attrs.get(f"transBatch{letter}"):
        shape = [*shape[1:-1], shape[0], shape[-1]]
    if node.attrs.get(f"trans{letter}"):
        shape[-2:] = shape[:-3:-1]
    return TensorType(type_.dtype, tuple(shape))


@type_rule(MICROSOFT, "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def skip_normalization_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The normalized sum, mean and inverse deviation of the rows, and the sum itself."""
    first = _first(types)
    shape = first.shape if isinstance(first, TensorType) else None
    row = TensorType(DType.F32, None if shape is None else (*shape[:-1], 1))
    return (first, row, row, first)[: len(node.outputs)]


@type_rule(MICROSOFT, "EmbedLayerNormalization")
def embedding_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """Rows of the table of words, one count per sequence, and rows again."""
    ids, table = (types[index] if index < len(types) else None for index in (0, 2))
    dtype = table.dtype if isinstance(table, TensorType) else DType.F32
    if not isinstance(ids, TensorType) or not isinstance(table, TensorType) or not ids.shape or not table.shape:
        return (TensorType(dtype, None), TensorType(DType.I32, None), TensorType(dtype, None))[: len(node.outputs)]
    rows = TensorType(dtype, (*ids.shape, table.shape[-1]))
    return (rows, TensorType(DType.I32, ids.shape[:1]), rows)[: len(node.outputs)]
