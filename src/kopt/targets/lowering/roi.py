"""Regions of interest pooled by their largest value."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _cells(start: Array, end: Array, count: int, size: int) -> Array:
    """Which of ``size`` places each of ``count`` cells of a region covers: (regions, count, size)."""
    length = jnp.maximum(end - start + 1, 1)[:, None]  # cells in integers: floats would round a border away from its place
    number = np.arange(count, dtype=np.int32)
    low = jnp.clip(number * length // count + start[:, None], 0, size)
    high = jnp.clip(-(-(number + 1) * length // count) + start[:, None], 0, size)
    place = np.arange(size)
    return (place >= low[:, :, None]) & (place < high[:, :, None])


@lowers("MaxRoiPool")
def max_roi_pool(ctx: LoweringContext, x: Array, rois: Array) -> Array:
    """The largest value of each cell of each region; 0 where a cell is empty.

    Args:
        ctx: the node.
        x: (batch, channels, height, width).
        rois: (regions, 5) as image, x1, y1, x2, y2; corners belong to the region. Result: (regions, channels, *pooled_shape).
    """
    height, width = (int(size) for size in ctx.attr("pooled_shape"))
    x, rois = jnp.asarray(x), jnp.asarray(rois).astype(np.float32)
    scaled = rois[:, 1:] * np.float32(ctx.attr("spatial_scale", 1.0))
    corners = jnp.floor(scaled + np.float32(0.5)).astype(np.int32)
    rows = _cells(corners[:, 1], corners[:, 3], height, x.shape[2])
    columns = _cells(corners[:, 0], corners[:, 2], width, x.shape[3])
    lowest = jnp.asarray(-np.inf, x.dtype)

    def one(region: tuple[Array, Array, Array]) -> Array:
        image, row, column = region
        values = jnp.take(x, image, 0, mode="clip")
        bands = jnp.stack([jnp.max(jnp.where(row[k][:, None], values, lowest), 1) for k in range(height)], 1)
        cells = jnp.stack([jnp.max(jnp.where(column[k], bands, lowest), 2) for k in range(width)], 2)
        return jnp.where(jnp.isneginf(cells), 0, cells)

    return lax.map(one, (rois[:, 0].astype(np.int32), rows, columns)).astype(x.dtype)
