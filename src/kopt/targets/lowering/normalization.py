"""Normalizations. Statistics are computed in f32 for narrower floats, in f64 for f64, whatever narrower ``stash_type`` allows."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.ir.types import DType
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _wide(x: Array) -> Array:
    x = jnp.asarray(x)
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


def _normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(var + epsilon), with the mean and the inverse deviation."""
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    inverse = lax.rsqrt(jnp.mean(centred * centred, axes, keepdims=True) + jnp.asarray(epsilon, x.dtype))
    return centred * inverse, mean, inverse


@lowers("LayerNormalization")
def layer_normalization(ctx: LoweringContext, x: Array, scale: Array, bias: Array | None = None) -> Any:
    """Over all axes from ``axis`` on. Source: ONNX LayerNormalization-17."""
    first = ctx.axis(ctx.attr("axis"), x.ndim)
    y, mean, inverse = _normalized(_wide(x), tuple(range(first, x.ndim)), ctx.attr("epsilon"))
    y = y.astype(x.dtype) * scale
    y = y if bias is None else y + bias
    stash = DType.from_onnx(ctx.attr("stash_type")).numpy
    results = (y.astype(x.dtype), mean.astype(stash), inverse.astype(stash))
    return results[: max(1, ctx.num_outputs)]


@lowers("RMSNormalization")
def rms_normalization(ctx: LoweringContext, x: Array, scale: Array) -> Array:
    """X / sqrt(mean(x^2) + epsilon) * scale, over all axes from ``axis`` on."""
    axes = tuple(range(ctx.axis(ctx.attr("axis"), x.ndim), x.ndim))
    wide = _wide(x)
    y = wide * lax.rsqrt(jnp.mean(wide * wide, axes, keepdims=True) + jnp.asarray(ctx.attr("epsilon"), wide.dtype))
    return (y.astype(x.dtype) * scale).astype(scale.dtype)


def _per_channel(vector: Array, rank: int) -> Array:
    return jnp.asarray(vector).reshape(-1, *[1] * (rank - 2))


@lowers("BatchNormalization")
def batch_normalization(ctx: LoweringContext, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Any:
    """Per channel with stored statistics, or with the batch's when training."""
    epsilon, rank = ctx.attr("epsilon"), x.ndim
    x = jnp.asarray(x)
    if not ctx.attr("training_mode"):
        factor = jnp.asarray(scale) / jnp.sqrt(jnp.asarray(var) + jnp.asarray(epsilon, var.dtype))
        offset = jnp.asarray(bias) - jnp.asarray(mean) * factor
        return (x * _per_channel(factor, rank) + _per_channel(offset, rank)).astype(x.dtype)
    axes = (0, *range(2, rank))
    now_mean, now_var = jnp.mean(x, axes), jnp.var(x, axes)
    momentum = ctx.attr("momentum")
    y = (x - _per_channel(now_mean, rank)) / jnp.sqrt(_per_channel(now_var, rank) + epsilon)
    y = y * _per_channel(scale, rank) + _per_channel(bias, rank)
    results = (y, mean * momentum + now_mean * (1 - momentum), var * momentum + now_var * (1 - momentum))
    return tuple(result.astype(like.dtype) for result, like in zip(results, (x, mean, var), strict=True))[: max(1, ctx.num_outputs)]


@lowers("InstanceNormalization")
def instance_normalization(ctx: LoweringContext, x: Array, scale: Array, bias: Array) -> Array:
    """Per sample and channel over the spatial axes."""
    y, _, _ = _normalized(_wide(x), tuple(range(2, x.ndim)), ctx.attr("epsilon"))
    return (y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)).astype(x.dtype)


@lowers("GroupNormalization")
def group_normalization(ctx: LoweringContext, x: Array, scale: Array, bias: Array) -> Array:
    """Per sample and group of channels; scale and bias per channel."""
    groups = ctx.attr("num_groups")
    wide = _wide(x).reshape(x.shape[0], groups, -1)
    y, _, _ = _normalized(wide, (2,), ctx.attr("epsilon"))
    y = y.reshape(x.shape).astype(x.dtype)
    return (y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)).astype(x.dtype)


@lowers("LpNormalization")
def lp_normalization(ctx: LoweringContext, x: Array) -> Array:
    """X / norm along ``axis``; 0 where the norm is 0."""
    axis, p = ctx.axis(ctx.attr("axis"), x.ndim), ctx.attr("p")
    norm = jnp.sum(jnp.abs(x), axis, keepdims=True) if p == 1 else jnp.sqrt(jnp.sum(jnp.asarray(x) * x, axis, keepdims=True))
    return jnp.where(norm == 0, jnp.zeros_like(x), x / jnp.where(norm == 0, jnp.ones_like(norm), norm)).astype(x.dtype)


@lowers("MeanVarianceNormalization")
def mean_variance_normalization(ctx: LoweringContext, x: Array) -> Array:
    """(x - mean) / deviation over ``axes``."""
    axes = tuple(ctx.axis(axis, x.ndim) for axis in ctx.attr("axes", (0, 2, 3)))
    wide = _wide(x)
    centred = wide - jnp.mean(wide, axes, keepdims=True)
    return (centred / (jnp.sqrt(jnp.mean(centred * centred, axes, keepdims=True)) + 1e-9)).astype(x.dtype)


@lowers("LRN")
def lrn(ctx: LoweringContext, x: Array) -> Array:
    """X / (bias + alpha / size * sum of squares over neighbouring channels) ** beta."""
    size = ctx.attr("size")
    x = jnp.asarray(x)
    before = (size - 1) // 2
    window = (1, size, *[1] * (x.ndim - 2))
    pads = [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)]
    total = lax.reduce_window(x * x, jnp.zeros((), x.dtype), lax.add, window, (1,) * x.ndim, pads)
    return (x / (ctx.attr("bias") + ctx.attr("alpha") / size * total) ** ctx.attr("beta")).astype(x.dtype)
