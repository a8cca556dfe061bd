"""Resampling of images: Resize, GridSample, AffineGrid, RoiAlign, Col2Im."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import floor, prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.ir.graph import Node
from kopt.targets.lowering.registry import Array, LoweringContext, lowers

_FEW_TAPS = 8  # up to here an axis is resized tap by tap, beyond by a matrix product


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized.

    Attributes:
        size: the input's.
        new: the output's.
        scale: new / size, before rounding.
        roi: start and end of the part that is read, of 1.
    """

    size: int
    new: int
    scale: float
    roi: tuple[float, float]

    def places(self, mode: str) -> np.ndarray:
        """Where each output element lies in the input: (new,), f64. Source: ONNX Resize-19."""
        x = np.arange(self.new, dtype=np.float64)
        width = self.scale * self.size
        start, end = self.roi
        if mode == "align_corners":
            return np.zeros(self.new) if width == 1 else x * (self.size - 1) / (width - 1)
        if mode == "asymmetric":
            return x / self.scale
        if mode == "tf_crop_and_resize":
            if width == 1:
                return np.full(self.new, (end + start) * (self.size - 1) / 2)
            return x * (end - start) * (self.size - 1) / (width - 1) + start * (self.size - 1)
        if mode == "pytorch_half_pixel" and width == 1:
            return np.full(self.new, -0.5)
        shift = self.size / 2 * (1 - self.new / width) if mode == "half_pixel_symmetric" and width else 0
        return shift + (x + 0.5) / self.scale - 0.5


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _taps(ctx: LoweringContext, axis: _Axis, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights of the elements that make each output element, (taps, new) each."""
    cubic = ctx.attr("mode") == "cubic"
    squeeze = min(axis.scale, 1.0) if ctx.attr("antialias") else 1.0
    first = floor(-(2 if cubic else 1) / squeeze) + 1
    base = np.ceil(places).astype(np.int64) - 1  # the fraction lies in (0, 1]
    indices = base + np.arange(first, 2 - first)[:, None]
    distance = (indices - places) * squeeze
    weights = _cubic(distance, ctx.attr("cubic_coeff_a")) if cubic else np.clip(1 - np.abs(distance), 0, 1)
    if ctx.attr("exclude_outside"):
        weights = np.where((indices >= 0) & (indices < axis.size), weights, 0)
    if ctx.attr("exclude_outside") or squeeze < 1:
        weights = weights / weights.sum(0)
    return np.clip(indices, 0, axis.size - 1), weights


_ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _nearest(ctx: LoweringContext, axis: _Axis, places: np.ndarray) -> np.ndarray:
    rounded = _ROUNDING[str(ctx.attr("nearest_mode"))](places)
    return np.clip(rounded.astype(np.int64), 0, axis.size - 1)


def _picked(x: Array, indices: np.ndarray, dim: int) -> Array:
    """Elements along one axis; whole repetitions as a broadcast, which is cheaper than a gather."""
    size, new = x.shape[dim], indices.size
    if size and new % size == 0 and np.array_equal(indices, np.repeat(np.arange(size), new // size)):
        wide = jnp.broadcast_to(jnp.expand_dims(x, dim + 1), (*x.shape[: dim + 1], new // size, *x.shape[dim + 1 :]))
        return wide.reshape(*x.shape[:dim], new, *x.shape[dim + 1 :])
    return jnp.take(x, indices, dim)


def _weighted(x: Array, indices: np.ndarray, weights: np.ndarray, dim: int) -> Array:
    """The weighted sum of taps along one axis."""
    if len(indices) > _FEW_TAPS:
        matrix = np.zeros((indices.shape[1], x.shape[dim]))
        np.add.at(matrix, (np.arange(indices.shape[1]), indices), weights)
        return jnp.moveaxis(jnp.tensordot(x, matrix.astype(x.dtype), ((dim,), (1,))), -1, dim)
    shape = [-1 if k == dim else 1 for k in range(x.ndim)]
    terms = [jnp.take(x, i, dim) * w.astype(x.dtype).reshape(shape) for i, w in zip(indices, weights, strict=True) if w.any()]
    return sum(terms[1:], terms[0])


def _axes(ctx: LoweringContext, shape: tuple[int, ...], roi: Any, scales: Any, sizes: Any) -> dict[int, _Axis]:
    """What becomes of each axis that is named, from scales or sizes."""
    dims = [int(dim) % len(shape) for dim in ctx.attr("axes") or range(len(shape))]
    if sizes is not None and sizes.size:
        news = [int(size) for size in sizes]
        factors = [new / shape[dim] if shape[dim] else 1.0 for new, dim in zip(news, dims, strict=True)]
        policy = ctx.attr("keep_aspect_ratio_policy")
        if policy != "stretch":
            factors = [min(factors) if policy == "not_larger" else max(factors)] * len(dims)
            news = [floor(factor * shape[dim] + 0.5) for factor, dim in zip(factors, dims, strict=True)]
    elif scales is not None and scales.size:
        factors = [float(scale) for scale in scales]
        news = [floor(np.float32(shape[dim]) * np.float32(factor)) for dim, factor in zip(dims, factors, strict=True)]
    else:
        raise ctx.unsupported("neither scales nor sizes are given")
    parts = [float(edge) for edge in roi] if roi is not None and roi.size else [0.0] * len(dims) + [1.0] * len(dims)
    count = len(dims)
    return {dim: _Axis(shape[dim], news[k], factors[k], (parts[k], parts[k + count])) for k, dim in enumerate(dims)}


@lowers("Resize", static=(1, 2, 3))
def resize(ctx: LoweringContext, x: Array, roi: Any = None, scales: Any = None, sizes: Any = None) -> Array:
    """Axis by axis, with indices and weights known when compiling. Source: ONNX Resize-19."""
    y, dtype = jnp.asarray(x), x.dtype
    mode = str(ctx.attr("coordinate_transformation_mode"))
    nearest = ctx.attr("mode") == "nearest"
    if not nearest and (not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize < 4):
        y = y.astype(np.float32)
    outside = np.zeros((1,) * x.ndim, np.bool_)
    for dim, axis in _axes(ctx, x.shape, roi, scales, sizes).items():
        crop = mode == "tf_crop_and_resize"
        if axis.scale == 1 and axis.new == axis.size and (not crop or axis.roi == (0, 1)):
            continue
        places = axis.places(mode)
        y = _picked(y, _nearest(ctx, axis, places), dim) if nearest else _weighted(y, *_taps(ctx, axis, places), dim)
        if crop:
            beyond = (places < 0) | (places > axis.size - 1)
            outside = outside | beyond.reshape([-1 if k == dim else 1 for k in range(x.ndim)])
    if outside.any():
        y = jnp.where(outside, jnp.asarray(ctx.attr("extrapolation_value"), y.dtype), y)
    if jnp.issubdtype(dtype, jnp.integer) and not nearest:
        y = jnp.clip(y, jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    return y.astype(dtype)


def _reflected(x: Array, low: float, high: float) -> Array:
    """Mirrored at both ends until inside."""
    if high <= low:
        return jnp.full_like(x, low)
    span = high - low
    turned = jnp.mod(x - low, 2 * span)
    return low + jnp.where(turned > span, 2 * span - turned, turned)


def _looked_up(x: Array, indices: Sequence[Array], padding: str, corners: bool) -> Array:
    """Elements of x: (N, C, *spatial) at whole-number indices, each (N, points): (N, C, points)."""
    spatial = x.shape[2:]
    flat, valid = jnp.zeros(indices[0].shape, np.int64), jnp.ones(indices[0].shape, np.bool_)
    for given, size in zip(indices, spatial, strict=True):
        index = given
        if padding == "reflection":
            low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
            index = jnp.where((index < 0) | (index > size - 1), jnp.trunc(_reflected(index, low, high)), index)
        valid = valid & (index >= 0) & (index <= size - 1)
        flat = flat * size + jnp.clip(jnp.nan_to_num(index), 0, size - 1).astype(np.int64)
    found = jnp.take_along_axis(x.reshape(*x.shape[:2], prod(spatial)), flat[:, None], 2)
    return found if padding == "border" else jnp.where(valid[:, None], found, 0)


def _sample_taps(place: Array, mode: str) -> list[tuple[Array, Array]]:
    """Index and weight of each element that one coordinate reads."""
    if mode == "nearest":
        return [(place, jnp.ones_like(place))]
    base = jnp.floor(place)
    part = place - base
    if mode == "linear":
        return [(base, 1 - part), (base + 1, part)]
    a = -0.75
    weights = []
    for offset in range(-1, 3):
        x = jnp.abs(part - offset)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        weights.append(near if offset in (0, 1) else ((a * x - 5 * a) * x + 8 * a) * x - 4 * a)
    return [(base + offset, weight) for offset, weight in zip(range(-1, 3), weights, strict=True)]


def sampled(x: Array, places: Sequence[Array], mode: str, padding: str, *, corners: bool) -> Array:
    """X between its elements.

    Args:
        x: (N, C, *spatial).
        places: where to read, in elements, one (N, points) per spatial axis.
        mode: "nearest" (places are whole numbers), "linear" or "cubic".
        padding: what lies outside: "zeros", "border" or "reflection".
        corners: whether a reflection is about the centres of the outer elements rather than about their edges.

    Returns:
        (N, C, points).
    """
    total = jnp.zeros((*x.shape[:2], places[0].shape[1]), x.dtype)
    for combination in product(*(_sample_taps(place, mode) for place in places)):
        weight = prod((w for _, w in combination[1:]), start=combination[0][1])
        total = total + weight[:, None] * _looked_up(x, [index for index, _ in combination], padding, corners)
    return total


@lowers("GridSample")
def grid_sample(ctx: LoweringContext, x: Array, grid: Array) -> Array:
    """X at the places that the grid names.  x: (N, C, *spatial), grid: (N, *out, spatial axes, last axis first)."""
    mode, padding, corners = str(ctx.attr("mode")), str(ctx.attr("padding_mode")), bool(ctx.attr("align_corners"))
    kind = np.float64 if x.dtype == np.float64 else np.float32
    wide, spatial = jnp.asarray(x).astype(kind), x.shape[2:]
    points = jnp.asarray(grid).astype(kind).reshape(grid.shape[0], prod(grid.shape[1:-1]), len(spatial))
    places = []
    for k, size in enumerate(spatial):
        g = points[..., len(spatial) - 1 - k]
        place = (g + 1) / 2 * (size - 1) if corners else ((g + 1) * size - 1) / 2
        place = jnp.round(place) if mode == "nearest" else place
        low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
        if padding == "border" and mode != "cubic":  # the elements of a cubic are clamped one by one, as ONNX Runtime does
            place = jnp.where((place < low) | (place > high), jnp.clip(place, 0, size - 1), place)
        elif padding == "reflection":
            place = jnp.where((place < low) | (place > high), _reflected(place, low, high), place)
        places.append(place)
    total = sampled(wide, places, mode, padding, corners=corners)
    return total.reshape(*x.shape[:2], *grid.shape[1:-1]).astype(x.dtype)


@lowers("AffineGrid", static=(1,))
def affine_grid(ctx: LoweringContext, theta: Array, size: np.ndarray) -> Array:
    """Normalised coordinates of each output element, transformed.  theta: (N, k, k + 1): (N, *spatial, k)."""
    spatial = [int(dim) for dim in size[2:]]
    if theta.shape[0] != int(size[0]):
        raise ValueError(f"{theta.shape[0]} transformations for {int(size[0])} images")
    kind = np.float64 if theta.dtype == np.float64 else np.float32
    lines = []
    for count in spatial:
        step = np.arange(count, dtype=np.float64)
        if ctx.attr("align_corners"):
            lines.append(step * 2 / (count - 1) - 1 if count > 1 else np.zeros(count))
        else:
            lines.append((2 * step + 1) / count - 1)
    mesh = np.meshgrid(*lines, indexing="ij")
    base = np.stack([*reversed(mesh), np.ones(spatial)], -1).astype(kind)
    return jnp.einsum("...j,nij->n...i", base, jnp.asarray(theta).astype(kind)).astype(theta.dtype)


@lowers("Col2Im", static=(1, 2))
def col2im(ctx: LoweringContext, x: Array, image: np.ndarray, block: np.ndarray) -> Array:
    """Columns added up where they came from.  x: (N, C * block size, blocks): (N, C, *image)."""
    sizes, kernel = [int(dim) for dim in image], [int(dim) for dim in block]
    count = len(sizes)
    strides, dilations = ctx.attr("strides") or (1,) * count, ctx.attr("dilations") or (1,) * count
    pads = ctx.attr("pads") or (0,) * (2 * count)
    padded = [size + pads[k] + pads[k + count] for k, size in enumerate(sizes)]
    blocks = [(size - d * (b - 1) - 1) // stride + 1 for size, d, b, stride in zip(padded, dilations, kernel, strides, strict=True)]
    channels = x.shape[1] // prod(kernel)
    columns = jnp.asarray(x).reshape(x.shape[0], channels, prod(kernel), *blocks)
    total = jnp.zeros((x.shape[0], channels, *padded), x.dtype)
    for number, offset in enumerate(np.ndindex(*kernel)):
        starts = [o * d for o, d in zip(offset, dilations, strict=True)]
        window = tuple(slice(s, s + (n - 1) * step + 1, step) for s, n, step in zip(starts, blocks, strides, strict=True))
        total = total.at[(slice(None), slice(None), *window)].add(columns[:, :, number])
    return total[(slice(None), slice(None), *(slice(pads[k], pads[k] + size) for k, size in enumerate(sizes)))]


def _fixed_boxes(node: Node) -> frozenset[int]:
    """Without a sampling ratio the size of a box decides how often it is sampled."""
    return frozenset() if node.attrs["sampling_ratio"] else frozenset({1})


@lowers("RoiAlign", static=_fixed_boxes)
def roi_align(ctx: LoweringContext, x: Array, rois: Array, batch: Array) -> Array:
    """Boxes pooled to one size.  x: (N, C, H, W), rois: (R, 4) as x1, y1, x2, y2: (R, C, h, w). Source: ONNX RoiAlign-22."""
    height, width, ratio = int(ctx.attr("output_height")), int(ctx.attr("output_width")), int(ctx.attr("sampling_ratio"))
    half = ctx.attr("coordinate_transformation_mode") == "half_pixel"
    kind = np.float64 if x.dtype == np.float64 else np.float32
    wide, boxes = jnp.asarray(x).astype(kind), rois.astype(kind) * kind(ctx.attr("spatial_scale")) - kind(0.5 if half else 0)
    lengths = boxes[:, 2:] - boxes[:, :2] if half else (boxes[:, 2:] - boxes[:, :2]).clip(1)
    if not len(rois):
        return jnp.zeros((0, x.shape[1], height, width), x.dtype)
    counts = np.full((len(rois), 2), ratio) if ratio else np.maximum(np.ceil(lengths / np.asarray([width, height])), 1).astype(np.int64)
    rows = _box_samples(boxes[:, 1], lengths[:, 1] / height, height, counts[:, 1], x.shape[2])
    columns = _box_samples(boxes[:, 0], lengths[:, 0] / width, width, counts[:, 0], x.shape[3])
    largest = ctx.attr("mode") == "max"

    def one(box: tuple[Array, ...]) -> Array:
        image, row, column = wide[box[0]], box[1:5], box[5:9]
        corners = []
        for far_y, far_x in product((0, 1), (0, 1)):
            values = image[:, (row[0] + far_y).clip(0, x.shape[2] - 1)][:, :, (column[0] + far_x).clip(0, x.shape[3] - 1)]
            corners.append(values * (row[1] if far_y else 1 - row[1])[:, None] * (column[1] if far_x else 1 - column[1]))
        inside, drawn = row[2][:, None] & column[2], row[3][:, None] & column[3]
        total = jnp.stack(corners).max(0) if largest else sum(corners[1:], corners[0])  # ONNX takes the largest weighted corner
        total = jnp.where(drawn, jnp.where(inside, total, 0), -jnp.inf if largest else 0)
        cells = total.reshape(x.shape[1], height, -1, width, column[0].size // width)
        cells = cells.max((2, 4)) if largest else cells.sum((2, 4))
        return cells if largest else cells / (box[9][0] * box[9][1])

    return lax.map(one, (jnp.asarray(batch), *rows, *columns, jnp.asarray(counts, kind))).astype(x.dtype)


def _box_samples(start: Array, cell: Array, cells: int, counts: np.ndarray, size: int) -> tuple[Array, ...]:
    """Where boxes are sampled along one axis: lower index, fraction, whether inside, whether drawn, each (R, cells * largest count)."""
    most = int(counts.max(initial=1))
    steps = (np.arange(most) + 0.5) / counts[:, None]
    place = start[:, None, None] + (np.arange(cells)[:, None] + steps[:, None, :]).astype(cell.dtype) * cell[:, None, None]
    place = jnp.asarray(place)
    inside = (place >= -1) & (place <= size)
    drawn = jnp.asarray(np.arange(most) < counts[:, None])[:, None]
    place = jnp.clip(place, 0, size - 1)
    low = jnp.floor(place).astype(np.int64)
    flat = (len(counts), cells * most)
    return low.reshape(flat), (place - low).reshape(flat), inside.reshape(flat), jnp.broadcast_to(drawn, place.shape).reshape(flat)
