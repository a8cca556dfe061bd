"""Gathering, scattering and ordering. Out-of-range indices never trap: reads clip, writes are dropped."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.distinct import distinct
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _wrapped(indices: Array, size: int) -> Array:
    """Negative indices count from the end."""
    indices = jnp.asarray(indices)
    return jnp.where(indices < 0, indices + size, indices)


@lowers("Gather")
def gather(ctx: LoweringContext, x: Array, indices: Array) -> Array:
    """Slices of x along ``axis``."""
    axis = ctx.axis(ctx.attr("axis"), x.ndim)
    if isinstance(x, np.ndarray) and isinstance(indices, np.ndarray):  # shape arithmetic stays known
        return np.asarray(np.take(x, indices, axis, mode="wrap"))
    if isinstance(indices, np.ndarray) and indices.ndim == 0 and x.shape[axis]:
        return lax.index_in_dim(jnp.asarray(x), int(indices) % x.shape[axis], axis, keepdims=False)
    return jnp.take(x, _wrapped(indices, x.shape[axis]), axis, mode="clip")


@lowers("GatherElements")
def gather_elements(ctx: LoweringContext, x: Array, indices: Array) -> Array:
    """x[..., indices[i, j], ...] along ``axis``, other positions those of ``indices``."""
    axis = ctx.axis(ctx.attr("axis"), x.ndim)
    if 0 in indices.shape:
        return jnp.zeros(indices.shape, x.dtype)
    index = [lax.broadcasted_iota(np.int64, indices.shape, k) for k in range(x.ndim)]
    index[axis] = jnp.clip(_wrapped(indices, x.shape[axis]), 0, max(0, x.shape[axis] - 1)).astype(np.int64)
    return jnp.asarray(x)[tuple(index)]


@lowers("GatherND")
def gather_nd(ctx: LoweringContext, x: Array, indices: Array) -> Array:
    """Slices of x at index tuples; ``batch_dims`` leading axes are paired."""
    batch = ctx.attr("batch_dims")
    depth = indices.shape[-1]
    index: list[Any] = [lax.broadcasted_iota(np.int64, indices.shape[:-1], k) for k in range(batch)]
    for k in range(depth):
        size = x.shape[batch + k]
        index.append(jnp.clip(_wrapped(indices[..., k], size), 0, max(0, size - 1)))
    return jnp.asarray(x)[tuple(index)]


_UPDATES = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}


def _scatter(x: Array, index: tuple[Any, ...], updates: Array, reduction: str) -> Array:
    return getattr(jnp.asarray(x).at[index], _UPDATES[reduction])(jnp.asarray(updates).astype(x.dtype), mode="drop")


@lowers("ScatterElements")
def scatter_elements(ctx: LoweringContext, x: Array, indices: Array, updates: Array) -> Array:
    """X with updates[i, j] written at indices[i, j] along ``axis``."""
    axis = ctx.axis(ctx.attr("axis"), x.ndim)
    index = [lax.broadcasted_iota(np.int64, indices.shape, k) for k in range(x.ndim)]
    index[axis] = _beyond(indices, x.shape[axis])
    return _scatter(x, tuple(index), updates, str(ctx.attr("reduction")))


def _beyond(indices: Array, size: int) -> Array:
    """Indices with negative ones wrapped and those still negative moved past the end, where writes are dropped."""
    wrapped = _wrapped(indices, size)
    return jnp.where(wrapped < 0, size, wrapped)


@lowers("ScatterND")
def scatter_nd(ctx: LoweringContext, x: Array, indices: Array, updates: Array) -> Array:
    """X with slices written at index tuples."""
    index = tuple(_beyond(indices[..., k], x.shape[k]) for k in range(indices.shape[-1]))
    return _scatter(x, index, updates, str(ctx.attr("reduction")))


@lowers("TensorScatter")
def tensor_scatter(ctx: LoweringContext, cache: Array, update: Array, start: Array | None = None) -> Array:
    """A cache updated from ``start[b]`` along ``axis``; circular writes wrap."""
    axis = ctx.axis(ctx.attr("axis"), cache.ndim)
    size = cache.shape[axis]
    first = jnp.zeros(cache.shape[0], np.int64) if start is None else jnp.asarray(start)
    index = [lax.broadcasted_iota(np.int64, update.shape, k) for k in range(cache.ndim)]
    shape = [1] * cache.ndim
    shape[0] = cache.shape[0]
    position = first.reshape(shape) + index[axis]
    index[axis] = position % size if str(ctx.attr("mode")) == "circular" else position
    return _scatter(cache, tuple(index), update, "none")


@lowers("TopK", static=(1,))
def top_k(ctx: LoweringContext, x: Array, k: np.ndarray) -> tuple[Array, Array]:
    """The k largest (or smallest) along ``axis`` and where they were; the lower index wins ties."""
    axis, count = ctx.axis(ctx.attr("axis"), x.ndim), int(np.asarray(k).item())
    x = jnp.asarray(x)
    descending = bool(ctx.attr("largest"))
    order = jnp.argsort(x, axis, stable=True, descending=descending)
    order = lax.slice_in_dim(order, 0, count, axis=axis)
    return jnp.take_along_axis(x, order, axis), order.astype(np.int64)


@lowers("OneHot", static=(1,))
def one_hot(ctx: LoweringContext, indices: Array, depth: np.ndarray, values: Array) -> Array:
    """values[1] at the index along a new ``axis``, values[0] elsewhere."""
    count = int(np.asarray(depth).item())
    rank = indices.ndim + 1
    axis = ctx.axis(ctx.attr("axis"), rank)
    expanded = jnp.expand_dims(_wrapped(jnp.asarray(indices).astype(np.int64), count), axis)
    shape = (*indices.shape[:axis], count, *indices.shape[axis:])
    hit = lax.broadcasted_iota(np.int64, shape, axis) == expanded
    return jnp.where(hit, jnp.asarray(values)[1], jnp.asarray(values)[0])


@lowers("Compress", static=(1,))
def compress(ctx: LoweringContext, x: Array, condition: np.ndarray) -> Array:
    """The slices where the condition holds."""
    axis = ctx.attr("axis")
    x = jnp.asarray(x)
    if axis is None:
        x, axis = x.ravel(), 0
    kept = np.flatnonzero(condition[: x.shape[axis]])
    return jnp.take(x, kept, axis)


@lowers("NonZero", static=(0,))
def non_zero(ctx: LoweringContext, x: np.ndarray) -> Array:
    """Positions of the elements that are not zero, i64 (rank, count); x must be known when compiling."""
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


@lowers("Unique", static=(0,))
def unique(ctx: LoweringContext, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distinct elements or slices, where each first occurs, which one each is, and how often; x must be known when compiling."""
    return distinct(x, ctx.attr("axis"), in_order=bool(ctx.attr("sorted")))[: ctx.num_outputs]
