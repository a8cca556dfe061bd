"""Products of 16-bit floats summed and returned in f32: on the CPU the only form that bf16 has fast kernels for."""

from __future__ import annotations

from math import prod

import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import KOPT
from kopt.targets.lowering.conv import Window, activate, conv_nhwc
from kopt.targets.lowering.narrow_calls import halves_convolved, halves_multiplied
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def wide_dot(a: Array, b: Array) -> Array:
    """A @ b in f32, whatever floats come in."""
    return jnp.matmul(jnp.asarray(a), jnp.asarray(b), preferred_element_type=np.float32)


@lowers("MatMulMixed", domain=KOPT)
def matmul_mixed(ctx: LoweringContext, a: Array, b: Array) -> Array:
    """Numpy's matmul. A batch of rows against one matrix is one product of all rows."""
    if b.ndim == 2 and a.ndim > 2:
        return wide_dot(a.reshape(prod(a.shape[:-1]), a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[-1])
    return wide_dot(a, b)


@lowers("GemmMixed", domain=KOPT)
def gemm_mixed(ctx: LoweringContext, a: Array, b: Array, c: Array | None = None) -> Array:
    """Alpha * op(A) @ op(B) + beta * C.  A: (M, K), B: (K, N) in 16 bits, C: f32, broadcast to (M, N)."""
    a = a.T if ctx.attr("transA") else a
    b = b.T if ctx.attr("transB") else b
    y = wide_dot(a, b) * np.float32(ctx.attr("alpha", 1.0))
    return y if c is None else y + jnp.asarray(c) * np.float32(ctx.attr("beta", 1.0))


@lowers("ConvNhwcMixed", domain=KOPT)
def conv_nhwc_mixed(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x: (N, *spatial, C), weight: (M, C / group, *kernel) in 16 bits, bias: (M) f32.

    The CPU's forms serve every device: cuDNN has no bf16 convolution for most shapes, products run everywhere.
    Source: github.com/jax-ml/jax/issues/37922.
    """
    x = jnp.asarray(x)
    window = Window.of(ctx, x.shape[1:-1], weight.shape[2:])
    y = conv_nhwc(x, jnp.asarray(weight), window, ctx.attr("group", 1), {**ctx.options, "device": "cpu"})
    return y if bias is None else y + jnp.asarray(bias)


def _finished(ctx: LoweringContext, y: Array, bias: Array | None, residual: Array | None) -> Array:
    """Bias, residual and activation in f32, and the result in its type."""
    y = y if bias is None else y + jnp.asarray(bias)
    y = activate(ctx, y if residual is None else y + jnp.asarray(residual).astype(np.float32))
    return y.astype(ctx.node.output.tensor.dtype.numpy)


@lowers("ProductMixed", domain=KOPT)
def product_mixed(ctx: LoweringContext, x: Array, w: Array, bias: Array | None = None, residual: Array | None = None) -> Array:
    """activation(x @ w + bias + residual).  x: (..., K), w: (K, N), or (N, K) with ``transB``, in 16 bits."""
    x, w = jnp.asarray(x), jnp.asarray(w)
    w = w.T if ctx.attr("transB") else w
    fast = halves_multiplied(ctx, x, w, bias, residual)
    if fast is not None:
        return fast
    y = wide_dot(x.reshape(prod(x.shape[:-1]), x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[-1])
    return _finished(ctx, y, bias, residual)


@lowers("FusedConvNhwcMixed", domain=KOPT)
def fused_conv_nhwc_mixed(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None) -> Array:
    """activation(Conv(x) + bias + residual), channels last, x and weight in 16 bits."""
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    window = Window.of(ctx, x.shape[1:-1], weight.shape[2:])
    fast = halves_convolved(ctx, x, weight, window, bias, residual)
    if fast is not None:
        return fast
    y = conv_nhwc(x, weight, window, ctx.attr("group", 1), {**ctx.options, "device": "cpu"})
    return _finished(ctx, y, bias, residual)
