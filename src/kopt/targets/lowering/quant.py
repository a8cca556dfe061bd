"""Quantization: to and from narrow integers and floats, and products that stay quantized."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from kopt.ir.types import DType
from kopt.targets.lowering.cast import convert
from kopt.targets.lowering.conv import Window, channels_first, channels_last, direct
from kopt.targets.lowering.matmul import integer_dot, less_zero_point
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _along(value: Array, rank: int, axis: int) -> Array:
    """A scale or zero point that broadcasts: a scalar, or a vector along ``axis`` of ``rank`` axes."""
    value = jnp.asarray(value)
    if value.size == 1:
        return value.reshape(())
    if value.ndim == 1:
        return value.reshape([-1 if k == axis % rank else 1 for k in range(rank)])
    return value


def _spread(ctx: LoweringContext, value: Array, shape: tuple[int, ...]) -> Array:
    """A scale or zero point as it applies to an array of ``shape``: to all, to slices of an axis, or to blocks along it."""
    axis, block = ctx.attr("axis"), int(ctx.attr("block_size", 0))
    if block and value.ndim == len(shape):
        axis %= len(shape)
        return jnp.repeat(jnp.asarray(value), block, axis)[(slice(None),) * axis + (slice(shape[axis]),)]
    return _along(value, len(shape), axis)


def _bounds(dtype: np.dtype) -> tuple[int, int]:
    narrow: Any = ml_dtypes.iinfo
    found = narrow(dtype) if dtype.name in ("int4", "uint4", "int2", "uint2") else np.iinfo(dtype)
    return int(found.min), int(found.max)


def _is_integer(dtype: np.dtype) -> bool:
    return dtype.name.startswith(("int", "uint"))


def to_integer(x: Array, zero: Array | None, dtype: np.dtype) -> Array:
    """Round half to even, add the zero point, saturate.  x: already divided by its scale."""
    low, high = _bounds(dtype)
    wide = jnp.round(x.astype(np.float32) if x.dtype.itemsize < 4 else x)
    if zero is not None:
        wide = wide + zero.astype(np.int32).astype(wide.dtype)
    return jnp.clip(wide, low, high).astype(np.int32).astype(dtype)


@lowers("QuantizeLinear")
def quantize_linear(ctx: LoweringContext, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """X / scale, rounded and saturated. Source: ONNX QuantizeLinear-25."""
    dtype, shape = ctx.node.output.tensor.dtype.numpy, x.shape
    precision = ctx.attr("precision", 0)
    if precision:
        kind = DType.from_onnx(precision).numpy
    else:
        kind = np.dtype(scale.dtype if jnp.issubdtype(scale.dtype, jnp.floating) and scale.dtype.itemsize > 1 else np.float32)
    ratio = jnp.asarray(x).astype(kind) / _spread(ctx, scale, shape).astype(kind)
    spread = None if zero is None else _spread(ctx, zero, shape)
    if _is_integer(dtype):
        return to_integer(ratio, spread, dtype)
    if spread is not None:
        ratio = ratio + spread.astype(kind)
    return convert(ratio, dtype, saturate=bool(ctx.attr("saturate", 1)))


@lowers("DequantizeLinear")
def dequantize_linear(ctx: LoweringContext, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """(X - zero_point) * scale. Source: ONNX DequantizeLinear-25."""
    x, shape = jnp.asarray(x), x.shape
    kind = np.int32 if _is_integer(np.dtype(x.dtype)) else np.float32
    wide = x.astype(kind)
    if zero is not None:
        wide = wide - _spread(ctx, zero, shape).astype(kind)
    return (wide.astype(np.float32) * _spread(ctx, scale, shape).astype(np.float32)).astype(ctx.node.output.tensor.dtype.numpy)


@lowers("DynamicQuantizeLinear")
def dynamic_quantize_linear(ctx: LoweringContext, x: Array) -> tuple[Array, Array, Array]:
    """To u8 over the range of the values. Source: ONNX DynamicQuantizeLinear-11."""
    del ctx
    return dynamic_quantize(x)


def dynamic_quantize(x: Array) -> tuple[Array, Array, Array]:
    """The values as u8 over their range, which is made to hold zero, with its scale and zero point."""
    x = jnp.asarray(x)
    low, high = jnp.min(x, initial=0), jnp.max(x, initial=0)
    scale = jnp.where(high > low, (high - low) / np.float32(255), 1).astype(np.float32)
    zero = jnp.round(jnp.clip(-low / scale, 0, 255)).astype(np.uint8)
    return to_integer(x / scale, zero, np.dtype(np.uint8)), scale, zero


@lowers("QLinearConv")
def qlinear_conv(ctx: LoweringContext, x: Array, xs: Array, xz: Array, w: Array, ws: Array, wz: Array, *rest: Any) -> Array:
    """A convolution in i32, brought to y's scale. The bias has the scale x_scale * w_scale."""
    ys, yz, *bias = rest
    wide = channels_last(less_zero_point(x, xz, 1))
    window = Window.of(ctx, wide.shape[1:-1], w.shape[2:])
    total = direct(wide, less_zero_point(w, wz, 0), window, ctx.attr("group"))
    if bias and bias[0] is not None:
        total = total + jnp.asarray(bias[0])
    factor = _scale(xs) * jnp.asarray(ws).astype(np.float32) / _scale(ys)
    result = to_integer(total.astype(np.float32) * _along(factor, total.ndim, -1), jnp.asarray(yz).reshape(()), np.dtype(yz.dtype))
    return channels_first(result)


def _scale(value: Array) -> Array:
    return jnp.asarray(value).astype(np.float32).reshape(())


@lowers("QLinearMatMul")
def qlinear_matmul(ctx: LoweringContext, a: Array, sa: Array, za: Array, b: Array, sb: Array, zb: Array, sy: Array, zy: Array) -> Array:
    """A product in i32, brought to y's scale. Scales per row of A and y, per column of B."""
    total = integer_dot(less_zero_point(a, za, a.ndim - 2), less_zero_point(b, zb, b.ndim - 1)).astype(np.float32)
    rank = max(2, total.ndim)
    factor = _along(sa, rank, -2).astype(np.float32) * _along(sb, rank, -1).astype(np.float32) / _along(sy, rank, -2).astype(np.float32)
    return to_integer(total * factor, _along(zy, rank, -2), np.dtype(zy.dtype))
