"""Types of kopt's products and convolutions on 8-bit integers.

``Int8Product`` and ``Int8ConvNhwc`` of ``com.kopt`` take::

    0 x                    u8 or i8: (..., K), or (N, *spatial, C)
    1 w                    i8, symmetric: (K, N), or (M, C / group, *kernel) as ONNX has it
    2 x_scale              f32 scalar
    3 x_zero_point         scalar of x's type; absent: 0
    4 w_scale              f32: a scalar, or one per output channel
    5 bias                 f32: one per output channel; optional
    6 residual             f32, u8 or i8 of the result's shape; optional
    7 y_scale              f32 scalar; absent: the result is f32
    8 y_zero_point         u8 or i8 scalar, which is the result's type; absent: 0 of u8
    9 residual_scale       f32 scalar; only with an 8-bit residual
    10 residual_zero_point scalar of the residual's type; absent: 0

and compute::

    sum = sum over K of (x - x_zero_point) * w                        exactly, in i32
    v   = activation(f32(sum) * (x_scale * w_scale) + bias + (residual - residual_zero_point) * residual_scale)
    y   = v, or saturate(round_half_even(v * (1 / y_scale)) + y_zero_point)

Padding of a convolution counts as x_zero_point, that is as 0. Attributes: ``activation`` and ``activation_params`` as those
of com.microsoft's FusedConv, and for the convolution all those of ``Conv``. Imported by ``kopt.ir.spec``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kopt.errors import InvalidModelError
from kopt.ir.graph import KOPT, Node, Value
from kopt.ir.spec import infer_node, type_rule
from kopt.ir.types import DType, TensorType, Type

INT8_INPUTS = (
    *("x", "w", "x_scale", "x_zero_point", "w_scale", "bias", "residual"),
    *("y_scale", "y_zero_point", "residual_scale", "residual_zero_point"),
)
"""Names of the operands, by position."""

REQUIRED_INPUTS = ("x", "w", "x_scale", "w_scale")
"""Operands that every node has."""

_NARROW = frozenset({DType.U8, DType.I8})
_ALLOWED: dict[str, frozenset[DType]] = {
    "x": _NARROW,
    "w": frozenset({DType.I8}),
    "x_zero_point": _NARROW,
    "residual": _NARROW | {DType.F32},
    "y_zero_point": _NARROW,
    "residual_zero_point": _NARROW,
}
_SCALARS = ("x_scale", "x_zero_point", "y_scale", "y_zero_point", "residual_scale", "residual_zero_point")


@type_rule(KOPT, "Int8Product", "Int8ConvNhwc")
def int8_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The shape of the product or convolution on floats; f32, or y_zero_point's type where there is a y_scale.

    Raises:
        InvalidModelError: an operand is missing, or has another type than the operator takes.
    """
    given = dict(zip(INT8_INPUTS, types, strict=False))
    reason = _element_reason(given) or _shape_reason(node, given)
    shape = None if reason else _result_shape(node, types)
    reason = reason or _residual_reason(given.get("residual"), shape)
    if reason:
        raise InvalidModelError(f"{node.qualified_op} does not accept {reason}", where=node.loc, next_step="see kopt.ir.int8_types")
    zero = given.get("y_zero_point")
    narrow = zero.dtype if isinstance(zero, TensorType) else DType.U8
    return (TensorType(DType.F32 if given.get("y_scale") is None else narrow, shape),)


def _element_reason(given: Mapping[str, Type | None]) -> str:
    """What is wrong with the operands' elements, or nothing."""
    for name in REQUIRED_INPUTS:
        if given.get(name) is None:
            return f"the absence of {name}"
    for name, type_ in given.items():
        allowed = _ALLOWED.get(name, frozenset({DType.F32}))
        if type_ is not None and (not isinstance(type_, TensorType) or type_.dtype not in allowed):
            return f"{name} of type {type_}"
    for zero, of in (("x_zero_point", "x"), ("residual_zero_point", "residual")):
        one, other = given.get(zero), given.get(of)
        if isinstance(one, TensorType) and isinstance(other, TensorType) and one.dtype is not other.dtype:
            return f"{zero} of type {one} for {of} of type {other}"
    residual = given.get("residual")
    narrow = isinstance(residual, TensorType) and residual.dtype in _NARROW
    if narrow != (given.get("residual_scale") is not None):
        return "an 8-bit residual without its scale" if narrow else "a residual_scale without an 8-bit residual"
    return ""


def _shape_reason(node: Node, given: Mapping[str, Type | None]) -> str:
    """What is wrong with the operands' shapes, or nothing."""
    w = given["w"]
    axis = 0 if node.op == "Int8ConvNhwc" else -1
    columns = w.shape[axis] if isinstance(w, TensorType) and w.shape else None
    for name in (*_SCALARS, "w_scale", "bias"):
        type_ = given.get(name)
        shape = type_.shape if isinstance(type_, TensorType) else None
        if shape is None or (name != "bias" and shape in ((), (1,))):
            continue
        if name in _SCALARS or len(shape) != 1 or (isinstance(shape[0], int) and isinstance(columns, int) and shape[0] != columns):
            return f"{name} of type {type_}"
    return ""


def _residual_reason(residual: Type | None, shape: tuple[int | str, ...] | None) -> str:
    """Why a residual cannot be added to a result of that shape, or nothing."""
    added = residual.shape if isinstance(residual, TensorType) else None
    if added is None or shape is None:
        return ""
    same = len(added) == len(shape) and all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(added, shape, strict=True))
    return "" if same else f"a residual of type {residual} for a result of shape {shape}"


def _result_shape(node: Node, types: Sequence[Type | None]) -> tuple[int | str, ...] | None:
    """The shape of the same operator on f32."""
    op, domain = ("MatMul", "") if node.op == "Int8Product" else ("ConvNhwc", KOPT)
    inputs = tuple(
        Value(f"i{k}", TensorType(DType.F32, type_.shape)) if isinstance(type_, TensorType) else None for k, type_ in enumerate(types[:2])
    )
    attrs = {} if op == "MatMul" else {name: value for name, value in node.attrs.items() if not name.startswith("activation")}
    (result,) = infer_node(node.replace(op=op, domain=domain, inputs=inputs, attrs=attrs, outputs=node.outputs[:1]))
    return result.shape if isinstance(result, TensorType) else None
