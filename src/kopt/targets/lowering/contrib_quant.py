"""ONNX Runtime's quantized operators: on the real values of their inputs, and back to integers.

Source: onnxruntime/docs/ContribOperators.md.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import MICROSOFT
from kopt.targets.lowering.activation import softmax
from kopt.targets.lowering.conv import channels_first, channels_last
from kopt.targets.lowering.matmul import integer_dot, less_zero_point
from kopt.targets.lowering.pool import average_pool_nhwc, max_pool_nhwc
from kopt.targets.lowering.quant import dequantize_linear, dynamic_quantize, qlinear_conv, quantize_linear, to_integer
from kopt.targets.lowering.registry import Array, LoweringContext, lowers

lowers("NhwcMaxPool", domain=MICROSOFT)(max_pool_nhwc)
lowers("QuantizeLinear", domain=MICROSOFT)(quantize_linear)
lowers("DequantizeLinear", domain=MICROSOFT)(dequantize_linear)


def _real(x: Array, scale: Array, zero: Array | None = None) -> Array:
    """(x - zero) * scale in f32."""
    return less_zero_point(x, zero, 0).astype(np.float32) * jnp.asarray(scale).astype(np.float32).reshape(())


def _integer(y: Array, scale: Array, zero: Array | None, dtype: Any) -> Array:
    """Y / scale + zero, rounded and saturated."""
    ratio = y / jnp.asarray(scale).astype(np.float32).reshape(())
    return to_integer(ratio, None if zero is None else jnp.asarray(zero).reshape(()), np.dtype(dtype))


@lowers("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def binary(
    ctx: LoweringContext, a: Array, sa: Array, za: Array | None, b: Array, sb: Array, zb: Array | None, sc: Array, zc: Array | None = None
) -> Array:
    """A + B or A * B."""
    left, right = _real(a, sa, za), _real(b, sb, zb)
    return _integer(left + right if ctx.node.op == "QLinearAdd" else left * right, sc, zc, a.dtype)


@lowers("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", domain=MICROSOFT)
def unary(ctx: LoweringContext, x: Array, sx: Array, zx: Array | None, sy: Array, zy: Array | None = None) -> Array:
    """An activation; Softmax of opset below 13 runs over all axes from ``axis`` on."""
    real = _real(x, sx, zx)
    if ctx.node.op == "QLinearSigmoid":
        y = jax.nn.sigmoid(real)
    elif ctx.node.op == "QLinearLeakyRelu":
        y = jnp.where(real < 0, np.float32(ctx.attr("alpha", 0.01)) * real, real)
    else:
        axis = int(ctx.attr("axis", -1)) % x.ndim
        flat = real if int(ctx.attr("opset", 13)) >= 13 else real.reshape(*x.shape[:axis], -1)
        y = softmax(flat, axis).reshape(x.shape)
    return _integer(y, sy, zy, x.dtype)


@lowers("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def average_pool(ctx: LoweringContext, x: Array, sx: Array, zx: Array | None, sy: Array, zy: Array | None = None) -> Array:
    """The mean of windows, or of all positions."""
    last = bool(ctx.attr("channels_last", 0))
    real = _real(x, sx, zx)
    real = real if last else channels_last(real)
    if ctx.node.op == "QLinearAveragePool":
        y = average_pool_nhwc(ctx, real)
    else:
        y = jnp.mean(real, tuple(range(1, x.ndim - 1)), keepdims=True)
    result = _integer(y, sy, zy, x.dtype)
    return result if last else channels_first(result)


@lowers("QLinearReduceMean", domain=MICROSOFT)
def reduce_mean(ctx: LoweringContext, x: Array, sx: Array, zx: Array | None, sy: Array, zy: Array | None = None) -> Array:
    """The mean over ``axes``."""
    axes = tuple(ctx.attr("axes") or range(x.ndim))
    return _integer(jnp.mean(_real(x, sx, zx), axes, keepdims=bool(ctx.attr("keepdims", 1))), sy, zy, x.dtype)


@lowers("QLinearConcat", domain=MICROSOFT)
def concat(ctx: LoweringContext, sy: Array, zy: Array, *rest: Any) -> Array:
    """Concat of triples (x, scale, zero point), each brought to y's scale."""
    parts = [_integer(_real(*rest[k : k + 3]), sy, zy, zy.dtype) for k in range(0, len(rest), 3)]
    return jnp.concatenate(parts, int(ctx.attr("axis", 0)))


@lowers("QLinearWhere", domain=MICROSOFT)
def where(ctx: LoweringContext, chosen: Array, x: Array, sx: Array, zx: Array, y: Array, sy: Array, zy: Array, *rest: Any) -> Array:
    """X where the condition holds, else y, brought to z's scale."""
    del ctx
    scale, zero = rest
    return _integer(jnp.where(jnp.asarray(chosen), _real(x, sx, zx), _real(y, sy, zy)), scale, zero, x.dtype)


@lowers("QLinearConv", domain=MICROSOFT)
def conv(ctx: LoweringContext, x: Array, *rest: Any) -> Array:
    """The ONNX operator, optionally on channels-last activations."""
    if not ctx.attr("channels_last", 0):
        return qlinear_conv(ctx, x, *rest)
    return channels_last(qlinear_conv(ctx, channels_first(jnp.asarray(x)), *rest))


def _per_column(value: Array) -> Array:
    """A scale or bias in f32: one for all, or one per column."""
    value = jnp.asarray(value).astype(np.float32)
    return value.reshape(()) if value.size == 1 else value


@lowers("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_to_float(
    ctx: LoweringContext, a: Array, b: Array, sa: Array, sb: Array, za: Array | None = None, zb: Array | None = None, bias: Any = None
) -> Array:
    """The exact product of integers, times both scales, plus a bias."""
    del ctx
    total = integer_dot(less_zero_point(a, za, a.ndim - 1), less_zero_point(b, zb, b.ndim - 1)).astype(np.float32)
    y = total * (_per_column(sa) * _per_column(sb))
    return (y if bias is None else y + _per_column(bias)).astype(sa.dtype)


@lowers("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_matmul(ctx: LoweringContext, a: Array, b: Array, sb: Array, zb: Array | None = None, bias: Any = None) -> Array:
    """A is quantized over its range first."""
    quantized, scale, zero = dynamic_quantize(a)
    return matmul_to_float(ctx, quantized, b, scale, sb, zero, zb, bias)
