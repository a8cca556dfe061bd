"""Types of ONNX Runtime's attention operators (``com.microsoft``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kopt.ir.graph import MICROSOFT, Node
from kopt.ir.spec import type_rule
from kopt.ir.types import Dim, DType, TensorType, Type


def _shape(types: Sequence[Type | None], index: int, rank: int | None = None) -> tuple[Dim, ...] | None:
    """The shape of an input, if it is there, known, and of ``rank``."""
    type_ = types[index] if index < len(types) else None
    if not isinstance(type_, TensorType) or type_.shape is None or rank not in (None, len(type_.shape)):
        return None
    return type_.shape


def _dtype(types: Sequence[Type | None], index: int) -> DType:
    type_ = types[index] if index < len(types) else None
    return type_.dtype if isinstance(type_, TensorType) else DType.F32


def _int(node: Node, name: str) -> int:
    value = node.attrs.get(name, 0)
    return value if isinstance(value, int) else 0


def _plus(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return a if b == 0 else "?"


def _part(dim: Dim, count: int) -> Dim:
    return dim // count if isinstance(dim, int) and count > 0 else "?"


@type_rule(MICROSOFT, "Attention", "QAttention")
def merged_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """(batch, seq, v_hidden), and keys and values as (2, batch, heads, total, head_dim)."""
    quantized = node.op == "QAttention"
    dtype = _dtype(types, 3 if quantized else 0)
    x, weight, past = _shape(types, 0, 3), _shape(types, 1, 2), _shape(types, 8 if quantized else 4, 5)
    unknown = TensorType(dtype, None)
    sizes = node.attrs.get("qkv_hidden_sizes")
    if x is None or weight is None:
        return (unknown, unknown)[: len(node.outputs)]
    width = sizes[2] if isinstance(sizes, tuple) and len(sizes) == 3 and isinstance(sizes[2], int) else _part(weight[1], 3)
    count = _int(node, "num_heads")
    total = x[1] if past is None else _plus(past[3], x[1])
    present = (2, x[0], count, total, _part(width, count))
    return (TensorType(dtype, (*x[:2], width)), TensorType(dtype, present))[: len(node.outputs)]


@type_rule(MICROSOFT, "MultiHeadAttention")
def multi_head_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """(batch, seq, v_hidden), keys and values as (batch, heads, total, head_dim), and scores."""
    dtype, count = _dtype(types, 0), _int(node, "num_heads")
    q, k, v = (_shape(types, index) for index in range(3))
    unknown = (TensorType(dtype, None),) * 3 + (TensorType(DType.F32, None),)
    if q is None or len(q) not in (3, 5):
        return unknown[: len(node.outputs)]
    head = q[4] if len(q) == 5 else _part(q[2], count)
    if len(q) == 5:
        length, v_head = q[1], head
    elif k is not None and len(k) == 5:
        length, v_head = k[1], k[4]
    elif k is not None and v is not None and len(k) == len(v) and len(k) in (3, 4):
        length, v_head = (k[1], _part(v[2], count)) if len(k) == 3 else (k[2], v[3])
    else:
        return unknown[: len(node.outputs)]
    past = _shape(types, 6, 4)
    total = length if past is None else _plus(past[2], length)
    width = v_head * count if isinstance(v_head, int) else "?"
    shapes = ((q[0], q[1], width), (q[0], count, total, head), (q[0], count, total, v_head), (q[0], count, q[1], total))
    dtypes = (dtype, dtype, dtype, DType.F32)
    return tuple(TensorType(*pair) for pair in zip(dtypes, shapes, strict=True))[: len(node.outputs)]


@type_rule(MICROSOFT, "RotaryEmbedding")
def rotary_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The first input's type."""
    return (TensorType(_dtype(types, 0), _shape(types, 0)),)


@type_rule(MICROSOFT, "GroupQueryAttention")
def grouped_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:
    """(batch, seq, heads * head_dim), caches as long as the longest sequence or the past ones, and scores."""
    dtype, heads, groups = _dtype(types, 0), _int(node, "num_heads"), _int(node, "kv_num_heads")
    q, k, past = _shape(types, 0, 3), _shape(types, 1, 3), _shape(types, 3, 4)
    cache = _dtype(types, 3) if past is not None else dtype
    if q is None:
        return (TensorType(dtype, None), TensorType(cache, None), TensorType(cache, None), TensorType(dtype, None))[: len(node.outputs)]
    head = _part(q[2], heads) if k is not None else _part(q[2], heads + 2 * groups)
    width = head * heads if isinstance(head, int) else "?"
    known = constants.get(6)
    total: Dim = int(known.reshape(-1)[0]) if known is not None and known.size == 1 else "?"
    capacity: Dim = total if past is None else max(total, past[2]) if isinstance(total, int) and isinstance(past[2], int) else "?"
    kept = TensorType(cache, (q[0], groups, capacity, head))
    scores = TensorType(dtype, (q[0], heads, q[1], total))
    return (TensorType(dtype, (q[0], q[1], width)), kept, kept, scores)[: len(node.outputs)]
