"""Pooling. One implementation, channels last; the channels-first operators transpose around it."""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.ir.graph import KOPT
from kopt.targets.lowering.conv import Window, channels_first, channels_last
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _window(ctx: LoweringContext, spatial: tuple[int, ...]) -> tuple[Window, tuple[tuple[int, int], ...]]:
    """The window, and its pads grown at the end where ceil_mode adds a last, partial position."""
    window = Window.of(ctx, spatial, ctx.attr("kernel_shape"))
    if not ctx.attr("ceil_mode", 0):
        return window, window.pads
    grown = []
    for size, (low, high), reach, stride in zip(spatial, window.pads, window.reach, window.strides, strict=True):
        count = -(-(size + low + high - reach) // stride) + 1
        if (count - 1) * stride >= size + low:  # the last position must start inside the input or its left padding
            count -= 1
        grown.append((low, max(high, (count - 1) * stride + reach - size - low)))
    return window, tuple(grown)


def _reduce(x: Array, neutral: Any, function: Any, window: Window, pads: tuple[tuple[int, int], ...]) -> Array:
    """lax.reduce_window over the spatial axes of (N, *spatial, C)."""
    return lax.reduce_window(
        x,
        jnp.asarray(neutral, x.dtype),
        function,
        (1, *window.kernel, 1),
        (1, *window.strides, 1),
        [(0, 0), *pads, (0, 0)],
        window_dilation=(1, *window.dilations, 1),
    )


def _isnan(x: Array) -> Array:
    return jnp.isnan(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros(x.shape, bool)


def _lowest(dtype: Any) -> Any:
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _max_pool(ctx: LoweringContext, x: Array) -> Array:
    window, pads = _window(ctx, x.shape[1:-1])
    return _reduce(x, _lowest(x.dtype), lax.max, window, pads)


def _max_indices(ctx: LoweringContext, x: Array, peak: Array) -> Array:
    """Flat position (over N, C, *spatial) of the first maximum of each window; x and peak channels last."""
    n, *spatial, c = x.shape
    window, pads = _window(ctx, tuple(spatial))
    order = range(len(spatial)) if not ctx.attr("storage_order") else reversed(range(len(spatial)))
    place = np.zeros(spatial, np.int64)
    stride = 1
    for axis in reversed(list(order)):
        place += np.arange(spatial[axis]).reshape([-1 if k == axis else 1 for k in range(len(spatial))]) * stride
        stride *= spatial[axis]
    flat = (np.arange(n)[:, None] * c + np.arange(c)) * prod(spatial)
    places = jnp.asarray(place[None, ..., None] + flat.reshape(n, *[1] * len(spatial), c))
    padded = lax.pad(x, jnp.asarray(_lowest(x.dtype), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
    where = lax.pad(places, jnp.asarray(-1, np.int64), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
    best = jnp.full(peak.shape, np.iinfo(np.int64).max)
    for offset in np.ndindex(*window.kernel):
        start = [0, *(o * d for o, d in zip(offset, window.dilations, strict=True)), 0]
        limit = [n, *(s + (size - 1) * t + 1 for s, size, t in zip(start[1:-1], peak.shape[1:-1], window.strides, strict=True)), c]
        steps = (1, *window.strides, 1)
        value, position = lax.slice(padded, start, limit, steps), lax.slice(where, start, limit, steps)
        found = (value == peak) | (_isnan(value) & _isnan(peak))  # a NaN is the maximum of its window
        best = jnp.where(found & (position >= 0), jnp.minimum(best, position), best)
    return best


@lowers("MaxPool")
def max_pool(ctx: LoweringContext, x: Array) -> Any:
    """The largest of each window; optionally where it was."""
    last = channels_last(jnp.asarray(x))
    peak = _max_pool(ctx, last)
    if not ctx.wants(1):
        return channels_first(peak)
    return channels_first(peak), channels_first(_max_indices(ctx, last, peak))


@lowers("MaxPoolNhwc", domain=KOPT)
def max_pool_nhwc(ctx: LoweringContext, x: Array) -> Array:
    """MaxPool on channels-last activations, without indices."""
    return _max_pool(ctx, jnp.asarray(x))


def _average_pool(ctx: LoweringContext, x: Array) -> Array:
    window, pads = _window(ctx, x.shape[1:-1])
    wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
    total = _reduce(wide, 0, lax.add, window, pads)
    ones = np.ones((1, *x.shape[1:-1], 1), wide.dtype)
    if ctx.attr("count_include_pad"):
        ones = np.pad(ones, [(0, 0), *window.pads, (0, 0)], constant_values=1)
        pads = tuple((0, high - own) for (_, high), (_, own) in zip(pads, window.pads, strict=True))
    count = _reduce(jnp.asarray(ones), 0, lax.add, window, pads)
    return (total / count).astype(x.dtype)


@lowers("AveragePool")
def average_pool(ctx: LoweringContext, x: Array) -> Array:
    """The mean of each window; padding counts only when asked."""
    return channels_first(_average_pool(ctx, channels_last(jnp.asarray(x))))


@lowers("AveragePoolNhwc", domain=KOPT)
def average_pool_nhwc(ctx: LoweringContext, x: Array) -> Array:
    """AveragePool on channels-last activations."""
    return _average_pool(ctx, jnp.asarray(x))


def _lp_pool(ctx: LoweringContext, x: Array) -> Array:
    p = ctx.attr("p")
    wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
    window, pads = _window(ctx, x.shape[1:-1])
    return (_reduce(jnp.abs(wide) ** p, 0, lax.add, window, pads) ** (1 / p)).astype(x.dtype)


@lowers("LpPool")
def lp_pool(ctx: LoweringContext, x: Array) -> Array:
    """The p-norm of each window."""
    return channels_first(_lp_pool(ctx, channels_last(jnp.asarray(x))))


@lowers("LpPoolNhwc", domain=KOPT)
def lp_pool_nhwc(ctx: LoweringContext, x: Array) -> Array:
    """LpPool on channels-last activations."""
    return _lp_pool(ctx, jnp.asarray(x))


@lowers("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(ctx: LoweringContext, x: Array) -> Array:
    """Over all spatial axes, kept with size 1."""
    axes = tuple(range(2, x.ndim))
    if ctx.node.op == "GlobalAveragePool":
        return jnp.mean(x, axes, keepdims=True).astype(x.dtype)
    if ctx.node.op == "GlobalMaxPool":
        return jnp.max(x, axes, keepdims=True)
    p = ctx.attr("p")
    wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
    return (jnp.sum(jnp.abs(wide) ** p, axes, keepdims=True) ** (1 / p)).astype(x.dtype)


@lowers("GlobalAveragePoolNhwc", domain=KOPT)
def global_average_pool_nhwc(ctx: LoweringContext, x: Array) -> Array:
    """The mean over the spatial axes of (N, *spatial, C)."""
    return jnp.mean(x, tuple(range(1, x.ndim - 1)), keepdims=True).astype(x.dtype)


@lowers("MaxUnpool", static=(2,))
def max_unpool(ctx: LoweringContext, x: Array, indices: Array, shape: np.ndarray | None = None) -> Array:
    """Values put back where MaxPool found them, zero elsewhere."""
    spatial = x.shape[2:]
    window = Window.of(ctx, spatial, ctx.attr("kernel_shape"))
    natural = [
        (size - 1) * s + k - low - high for size, s, k, (low, high) in zip(spatial, window.strides, window.kernel, window.pads, strict=True)
    ]
    plain = (*x.shape[:2], *natural)
    flat = jnp.zeros(prod(plain), x.dtype).at[jnp.asarray(indices).ravel()].set(jnp.asarray(x).ravel(), mode="drop").reshape(plain)
    wanted = plain if shape is None else tuple(int(dim) for dim in shape)
    return lax.pad(flat, jnp.zeros((), x.dtype), [(0, want - have, 0) for want, have in zip(wanted, plain, strict=True)])
