"""Shapes and data movement."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.errors import InvalidModelError
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _axes(values: Any, rank: int) -> tuple[int, ...]:
    return tuple(int(axis) + rank if axis < 0 else int(axis) for axis in np.atleast_1d(values))


def _xp(x: Array) -> Any:
    """Numpy for values known while compiling (so that they stay known), jax.numpy otherwise."""
    return np if isinstance(x, np.ndarray) else jnp


@lowers("Reshape", static=(1,))
def reshape(ctx: LoweringContext, x: Array, shape: np.ndarray) -> Array:
    """0 keeps the input's dimension (unless allowzero), -1 takes what is left."""
    wanted = [int(dim) for dim in shape]
    if not ctx.attr("allowzero"):
        wanted = [x.shape[k] if dim == 0 else dim for k, dim in enumerate(wanted)]
    if -1 in wanted and 0 in wanted:  # numpy cannot divide by zero; the type has the answer
        wanted = list(ctx.node.output.shape)
    return x.reshape(wanted)


@lowers("Transpose")
def transpose(ctx: LoweringContext, x: Array) -> Array:
    """Axes permuted; reversed by default."""
    return _xp(x).transpose(x, ctx.attr("perm"))


@lowers("Flatten")
def flatten(ctx: LoweringContext, x: Array) -> Array:
    """Two dimensions, split before ``axis``."""
    axis = ctx.attr("axis")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), int(np.prod(x.shape[axis:], dtype=np.int64)))


@lowers("Squeeze", static=(1,))
def squeeze(ctx: LoweringContext, x: Array, axes: np.ndarray | None = None) -> Array:
    """The named axes of size 1 removed; all of them by default."""
    return _xp(x).squeeze(x, None if axes is None else _axes(axes, x.ndim))


@lowers("Unsqueeze", static=(1,))
def unsqueeze(ctx: LoweringContext, x: Array, axes: np.ndarray) -> Array:
    """Axes of size 1 inserted; positions count in the output."""
    return _xp(x).expand_dims(x, _axes(axes, x.ndim + np.atleast_1d(axes).size))


@lowers("Concat")
def concat(ctx: LoweringContext, *arrays: Array) -> Array:
    """Joined along ``axis``."""
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.concatenate(arrays, ctx.attr("axis"))
    return jnp.concatenate([jnp.asarray(array) for array in arrays], ctx.attr("axis"))


@lowers("Split", static=(1,))
def split(ctx: LoweringContext, x: Array, sizes: np.ndarray | None = None) -> tuple[Array, ...]:
    """Cut along ``axis`` into the given sizes, or into equal parts with a smaller last one."""
    axis, count = ctx.attr("axis"), ctx.num_outputs
    length = x.shape[axis]
    if sizes is None:
        part = -(-length // count)
        sizes = np.array([max(0, min(part, length - k * part)) for k in range(count)])
    return tuple(_xp(x).split(x, np.cumsum(sizes)[:-1].tolist(), axis))


@lowers("Slice", static=(1, 2, 3, 4))
def slice_(
    ctx: LoweringContext, x: Array, starts: np.ndarray, ends: np.ndarray, axes: np.ndarray | None = None, steps: np.ndarray | None = None
) -> Array:
    """Numpy slicing with clamped bounds; negative steps count down."""
    positions = range(len(starts)) if axes is None else _axes(axes, x.ndim)
    index: list[slice] = [slice(None)] * x.ndim
    for k, axis in enumerate(positions):
        step = 1 if steps is None else int(steps[k])
        index[axis] = _clamped(int(starts[k]), int(ends[k]), step, x.shape[axis])
    return x[tuple(index)]


def _clamped(start: int, end: int, step: int, size: int) -> slice:
    """A numpy slice for ONNX bounds. Source: ONNX Slice-13."""
    if step == 0:
        raise ValueError("a step of 0")
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step) if size else slice(0, 0)


@lowers("Expand", static=(1,))
def expand(ctx: LoweringContext, x: Array, shape: np.ndarray) -> Array:
    """Broadcast both ways against ``shape``."""
    return jnp.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(dim) for dim in shape)))


@lowers("Tile", static=(1,))
def tile(ctx: LoweringContext, x: Array, repeats: np.ndarray) -> Array:
    """Repeated along every axis."""
    return jnp.tile(x, tuple(int(count) for count in repeats))


_PAD_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@lowers("Pad", static=(1, 3))
def pad(ctx: LoweringContext, x: Array, pads: np.ndarray, value: Array | None = None, axes: np.ndarray | None = None) -> Array:
    """Grown at both ends of the axes; negative pads cut."""
    positions = range(x.ndim) if axes is None else _axes(axes, x.ndim)
    widths = [(0, 0)] * x.ndim
    half = len(pads) // 2
    for k, axis in enumerate(positions):
        widths[axis] = (int(pads[k]), int(pads[k + half]))
    cut = tuple(slice(max(0, -low), size - max(0, -high)) for (low, high), size in zip(widths, x.shape, strict=True))
    x = jnp.asarray(x)[cut]
    grow = [(max(0, low), max(0, high)) for low, high in widths]
    if ctx.attr("mode") == "constant":
        fill = jnp.zeros((), x.dtype) if value is None else jnp.asarray(value).reshape(()).astype(x.dtype)
        return lax.pad(x, fill, [(low, high, 0) for low, high in grow])
    return jnp.pad(x, grow, mode=_PAD_MODES[str(ctx.attr("mode"))])


@lowers("Shape")
def shape_(ctx: LoweringContext, x: Array) -> Array:
    """The dimensions from ``start`` to ``end`` as i64."""
    return np.array(x.shape[slice(ctx.attr("start", 0), ctx.attr("end"))], np.int64)


@lowers("Size")
def size(ctx: LoweringContext, x: Array) -> Array:
    """The number of elements as i64."""
    return np.array(x.size, np.int64)


@lowers("ConstantOfShape", static=(0,))
def constant_of_shape(ctx: LoweringContext, shape: np.ndarray) -> Array:
    """A tensor filled with one value; f32 zero by default."""
    held = ctx.attr("value")
    value = np.zeros(1, np.float32) if held is None else held.array()
    return jnp.full(tuple(int(dim) for dim in shape), value.ravel()[0], dtype=value.dtype)


@lowers("Range", static=(0, 1, 2))
def range_(ctx: LoweringContext, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> Array:
    """start, start + delta, ... before limit."""
    first, end, step = start.item(), limit.item(), delta.item()
    if step == 0:
        raise InvalidModelError("Range has a step of 0", where=ctx.node.loc, next_step="give it a step up or down")
    # Python's integers are exact; floats are ceil((limit - start) / delta) as the standard has it
    count = max(0, -((first - end) // step) if isinstance(step, int) else int(np.ceil((end - first) / step)))
    return (np.asarray(start).reshape(()) + np.arange(count).astype(start.dtype) * np.asarray(delta).reshape(())).astype(start.dtype)


@lowers("EyeLike")
def eye_like(ctx: LoweringContext, x: Array) -> Array:
    """Ones on the k-th diagonal."""
    return jnp.eye(x.shape[0], x.shape[1], k=ctx.attr("k"), dtype=ctx.node.output.tensor.dtype.numpy)


@lowers("DepthToSpace")
def depth_to_space(ctx: LoweringContext, x: Array) -> Array:
    """(N, C, H, W) ==> (N, C / b^2, H * b, W * b), depth-column-row or column-row-depth."""
    n, c, h, w = x.shape
    b = ctx.attr("blocksize")
    if ctx.attr("mode") == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)


@lowers("SpaceToDepth")
def space_to_depth(ctx: LoweringContext, x: Array) -> Array:
    """(N, C, H, W) ==> (N, C * b^2, H / b, W / b)."""
    n, c, h, w = x.shape
    b = ctx.attr("blocksize")
    if ctx.attr("mode", "DCR") == "CRD":
        return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 1, 3, 5, 2, 4).reshape(n, c * b**2, h // b, w // b)
    return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


@lowers("Trilu", static=(1,))
def trilu(ctx: LoweringContext, x: Array, k: np.ndarray | None = None) -> Array:
    """The upper or lower triangle of the last two axes."""
    diagonal = 0 if k is None else int(np.asarray(k).item())
    return jnp.triu(x, diagonal) if ctx.attr("upper") else jnp.tril(x, diagonal)


@lowers("CenterCropPad", static=(1,))
def center_crop_pad(ctx: LoweringContext, x: Array, shape: np.ndarray) -> Array:
    """Cropped or zero-padded around the middle."""
    axes = ctx.attr("axes")
    x = jnp.asarray(x)
    for axis, wanted in zip(range(x.ndim) if axes is None else _axes(axes, x.ndim), (int(dim) for dim in shape), strict=True):
        have = x.shape[axis]
        if wanted < have:
            start = (have - wanted) // 2
            x = lax.slice_in_dim(x, start, start + wanted, axis=axis)
        elif wanted > have:
            before = (wanted - have) // 2
            widths = [(0, 0)] * x.ndim
            widths[axis] = (before, wanted - have - before)
            x = jnp.pad(x, widths)
    return x


@lowers("ReverseSequence")
def reverse_sequence(ctx: LoweringContext, x: Array, lengths: Array) -> Array:
    """The first ``lengths[b]`` steps of each sequence reversed."""
    batch, time = ctx.attr("batch_axis"), ctx.attr("time_axis")
    steps = lax.broadcasted_iota(np.int64, x.shape, time)
    shape = [1] * x.ndim
    shape[batch] = x.shape[batch]
    limit = jnp.asarray(lengths).astype(np.int64).reshape(shape)
    return jnp.take_along_axis(x, jnp.where(steps < limit, limit - 1 - steps, steps), axis=time)
