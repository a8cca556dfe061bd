"""ONNX Runtime's own operators, as its optimizer writes them. Source: onnxruntime/docs/ContribOperators.md."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import MICROSOFT
from kopt.targets.lowering.activation import activated, gelu
from kopt.targets.lowering.conv import activate
from kopt.targets.lowering.matmul import dot
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@lowers("Gelu", "FastGelu", "BiasGelu", domain=MICROSOFT)
def lower_gelu(ctx: LoweringContext, x: Array, bias: Array | None = None) -> Array:
    """Gelu of x + bias; FastGelu by tanh."""
    x = jnp.asarray(x) if bias is None else jnp.asarray(x) + bias
    return gelu(x, "tanh" if ctx.node.op == "FastGelu" else "none").astype(x.dtype)


@lowers("QuickGelu", domain=MICROSOFT)
def quick_gelu(ctx: LoweringContext, x: Array) -> Array:
    """X * sigmoid(alpha * x)."""
    x = jnp.asarray(x)
    return (x * jax.nn.sigmoid(np.asarray(ctx.attr("alpha", 1.702), x.dtype) * x)).astype(x.dtype)


def _turned(ctx: LoweringContext, x: Array, letter: str) -> Array:
    x = jnp.asarray(x)
    if ctx.attr(f"transBatch{letter}", 0):
        x = jnp.moveaxis(x, 0, -2)
    return jnp.swapaxes(x, -1, -2) if ctx.attr(f"trans{letter}", 0) and x.ndim > 1 else x


def _scaled(x: Array, factor: float) -> Array:
    return x if factor == 1 else (x * np.asarray(factor)).astype(x.dtype)


@lowers("FusedMatMul", domain=MICROSOFT)
def fused_matmul(ctx: LoweringContext, a: Array, b: Array) -> Array:
    """Alpha * op(A) @ op(B)."""
    return _scaled(dot(_turned(ctx, a, "A"), _turned(ctx, b, "B")), ctx.attr("alpha", 1.0))


@lowers("FusedGemm", domain=MICROSOFT)
def fused_gemm(ctx: LoweringContext, a: Array, b: Array, c: Array | None = None) -> Array:
    """An activation of alpha * op(A) @ op(B) + beta * C."""
    y = _scaled(dot(_turned(ctx, a, "A"), _turned(ctx, b, "B")), ctx.attr("alpha", 1.0))
    if c is not None:
        y = y + _scaled(jnp.asarray(c), ctx.attr("beta", 1.0))
    name = str(ctx.attr("activation", ""))
    if name == "LeakyRelu":
        return activated(name, y, (ctx.attr("activation_alpha", 0.01),))
    return activate(ctx, y)


@lowers("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(ctx: LoweringContext, x: Array, skip: Array, scale: Array, *rest: Any) -> Any:
    """The normalization of x + skip + bias over the last axis, in f32; the simplified one without mean and shift."""
    simple = ctx.node.op == "SkipSimplifiedLayerNormalization"
    shift, bias = (*(() if not simple else (None,)), *rest, None, None)[:2]
    x = jnp.asarray(x)
    total = x + jnp.asarray(skip)
    total = total if bias is None else total + bias
    wide = total.astype(np.float32) if x.dtype.itemsize < 4 else total
    mean = jnp.zeros((*x.shape[:-1], 1), wide.dtype) if simple else wide.mean(-1, keepdims=True)
    inverse = 1 / jnp.sqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + np.asarray(ctx.attr("epsilon", 1e-12), wide.dtype))
    y = (wide - mean) * inverse * jnp.asarray(scale).astype(wide.dtype)
    y = y if shift is None else y + jnp.asarray(shift).astype(wide.dtype)
    results = (y.astype(x.dtype), mean.astype(np.float32), inverse.astype(np.float32), total.astype(x.dtype))
    return results[: ctx.num_outputs]
