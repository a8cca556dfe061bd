"""Reductions and scans along axes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _sum(x: Array, **kw: Any) -> Array:
    return jnp.sum(x, dtype=x.dtype, **kw)


def _mean(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return jnp.mean(x, axis=axis, keepdims=keepdims)
    total = jnp.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)
    return lax.div(total, jnp.full_like(total, max(1, prod(x.shape[k] for k in axis))))  # truncates, as integer division does


def _log_sum_exp(x: Array, *, axis: Any, keepdims: bool) -> Array:
    wide = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(np.float32)
    if any(x.shape[k] == 0 for k in axis):
        return jnp.log(jnp.sum(jnp.exp(wide), axis=axis, keepdims=keepdims))
    peak = lax.stop_gradient(wide.max(axis=axis, keepdims=True))
    peak = jnp.where(jnp.isfinite(peak), peak, jnp.zeros_like(peak))
    result = jnp.log(jnp.sum(jnp.exp(wide - peak), axis=axis, keepdims=True)) + peak
    return result if keepdims else result.squeeze(axis)


def _extreme(function: Callable[..., Array], *, largest: bool) -> Callable[..., Array]:
    def reduce(x: Array, **kw: Any) -> Array:
        if x.dtype == np.bool_:
            return (jnp.any if largest else jnp.all)(x, **kw)
        if jnp.issubdtype(x.dtype, jnp.floating):
            return function(x, initial=-np.inf if largest else np.inf, **kw)
        limits = jnp.iinfo(x.dtype)
        return function(x, initial=limits.min if largest else limits.max, **kw)

    return reduce


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": _extreme(jnp.max, largest=True),
    "ReduceMin": _extreme(jnp.min, largest=False),
    "ReduceProd": lambda x, **kw: jnp.prod(x, dtype=x.dtype, **kw),
    "ReduceL1": lambda x, **kw: _sum(jnp.abs(x), **kw),
    "ReduceL2": lambda x, **kw: jnp.sqrt(_sum(x * x, **kw)),
    "ReduceSumSquare": lambda x, **kw: _sum(x * x, **kw),
    "ReduceLogSum": lambda x, **kw: jnp.log(_sum(x, **kw)),
    "ReduceLogSumExp": _log_sum_exp,
}


@lowers(*_REDUCTIONS, static=(1,))
def reduce_(ctx: LoweringContext, x: Array, axes: np.ndarray | None = None) -> Array:
    """Over the given axes; over all of them without axes, unless noop_with_empty_axes."""
    x = jnp.asarray(x)
    if axes is None or axes.size == 0:
        if ctx.attr("noop_with_empty_axes"):
            return _reduced(ctx, x, ())
        return _reduced(ctx, x, tuple(range(x.ndim)))
    return _reduced(ctx, x, tuple(ctx.axis(int(axis), x.ndim) for axis in axes.ravel()))


def _reduced(ctx: LoweringContext, x: Array, axes: tuple[int, ...]) -> Array:
    if not axes and ctx.node.op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
        return x
    return _REDUCTIONS[ctx.node.op](x, axis=axes, keepdims=bool(ctx.attr("keepdims"))).astype(x.dtype)


@lowers("ArgMax", "ArgMin")
def arg_extreme(ctx: LoweringContext, x: Array) -> Array:
    """Position of the first (or last) extreme value, i64."""
    axis = ctx.axis(ctx.attr("axis"), x.ndim)
    find = jnp.argmax if ctx.node.op == "ArgMax" else jnp.argmin
    if ctx.attr("select_last_index"):
        found = x.shape[axis] - 1 - find(jnp.flip(x, axis), axis)
    else:
        found = find(jnp.asarray(x), axis)
    return (jnp.expand_dims(found, axis) if ctx.attr("keepdims") else found).astype(np.int64)


@lowers("CumSum", "CumProd", static=(1,))
def cumulative(ctx: LoweringContext, x: Array, axis: np.ndarray) -> Array:
    """Running sum or product; exclusive shifts by one, reverse runs from the end."""
    along = ctx.axis(int(np.asarray(axis).item()), x.ndim)
    product = ctx.node.op == "CumProd"
    x = jnp.asarray(x)
    x = jnp.flip(x, along) if ctx.attr("reverse") else x
    result = (jnp.cumprod if product else jnp.cumsum)(x, axis=along, dtype=x.dtype)
    if ctx.attr("exclusive"):
        neutral = jnp.full_like(lax.slice_in_dim(result, 0, min(1, x.shape[along]), axis=along), 1 if product else 0)
        result = jnp.concatenate([neutral, lax.slice_in_dim(result, 0, max(0, x.shape[along] - 1), axis=along)], along)
    return jnp.flip(result, along) if ctx.attr("reverse") else result
