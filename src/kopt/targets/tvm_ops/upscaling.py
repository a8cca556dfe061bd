"""Transposed convolutions and resizing: convolutions of an image with zeros between its elements, and rows taken by known numbers."""

from __future__ import annotations

import numpy as np

from kopt.ir.graph import KOPT
from kopt.ir.nhwc_types import to_nchw, to_nhwc
from kopt.targets.tvm_ops.conv import Geometry, convolved
from kopt.targets.tvm_ops.gathering import taken_along
from kopt.targets.tvm_ops.movement import sliced
from kopt.targets.tvm_ops.registry import Context, translates
from kopt.targets.tvm_plan import Refused
from kopt.targets.tvm_tree import Tensor


@translates("ConvTranspose")
def conv_transpose(ctx: Context, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Channels first: turned around and back."""
    rank = len(x.shape)
    return ctx.plan.permuted(conv_transpose_nhwc(ctx, ctx.plan.permuted(x, to_nhwc(rank)), w, bias), to_nchw(rank))


@translates("ConvTransposeNhwc", domain=KOPT)
def conv_transpose_nhwc(ctx: Context, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution, with turned filters, of x with zeros between its elements.  w: (C, M / group, *kernel)."""
    if ctx.attr("auto_pad") not in (None, "NOTSET") or ctx.attr("output_shape"):
        raise Refused("sizes that follow from the result's")
    count, group = len(x.shape) - 2, ctx.attr("group")
    kernel, sizes = w.shape[2:], x.shape[1:-1]
    strides, dilations = (tuple(ctx.attr(name) or (1,) * count) for name in ("strides", "dilations"))
    pads, extra = ctx.attr("pads") or (0,) * (2 * count), ctx.attr("output_padding") or (0,) * count
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    before = tuple(r - low for r, low in zip(reach, pads[:count], strict=True))
    after = tuple(r - high + more for r, high, more in zip(reach, pads[count:], extra, strict=True))
    if min(*before, *after) < 0 or 0 in x.shape:
        raise Refused("more is cut off than the window reaches")
    spread = _spread(ctx, x, strides)
    counts = tuple(n + low + high - r for n, low, high, r in zip(spread.shape[1:-1], before, after, reach, strict=True))
    geometry = Geometry(kernel, (1,) * count, dilations, before, after, counts)
    return convolved(ctx, spread, _turned(ctx, w, group), geometry, bias, None) if sizes else x


def _spread(ctx: Context, x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """``x`` (N, *spatial, C) with zeros between its elements."""
    if set(strides) == {1}:
        return x
    sizes = [(size - 1) * stride + 1 for size, stride in zip(x.shape[1:-1], strides, strict=True)]
    result = ctx.plan.new((x.shape[0], *sizes, x.shape[-1]), x.dtype)
    ctx.plan.write(ctx.plan.expanded(ctx.number(0, x.dtype), result.shape), result)
    place = result
    for axis, (size, stride) in enumerate(zip(x.shape[1:-1], strides, strict=True), 1):
        place = sliced(place, axis, 0, size, stride)
    ctx.plan.write(x, place)
    return result


def _turned(ctx: Context, w: Tensor, group: int) -> Tensor:
    """(C, M / group, *kernel) ==> (M, C / group, *kernel), every axis of the kernel reversed."""
    channels, inner, *kernel = w.shape
    for axis, size in enumerate(kernel, 2):
        w = sliced(w, axis, size - 1, size, -1)
    parts = ctx.plan.reshaped(w, (group, channels // group, inner, *kernel))
    order = (0, 2, 1, *range(3, 3 + len(kernel)))
    return ctx.plan.reshaped(ctx.plan.permuted(parts, order), (group * inner, channels // group, *kernel))


@translates("Resize")
def resize(ctx: Context, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
    """Nearest or linear along every axis whose size changes; the places are known, so these are rows taken by number."""
    mode, given = ctx.attr("mode"), ctx.values(scales, "scales")
    if mode not in ("nearest", "linear") or ctx.attr("antialias") or ctx.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Refused(f"mode {mode} with antialias or a region")
    if ctx.attr("keep_aspect_ratio_policy") != "stretch" or x.dtype != "float32":
        raise Refused("only f32, stretched")
    chosen = list(ctx.attr("axes") or range(len(x.shape)))
    for axis, (old, new) in enumerate(zip(x.shape, ctx.shape, strict=True)):
        scale = new / old
        if given is not None and given.size and axis in chosen:
            scale = float(given.reshape(-1)[chosen.index(axis)])
        if scale == 1 and old == new:
            continue
        where = _places(ctx, old, new, scale)
        x = _nearest(ctx, x, axis, where) if mode == "nearest" else _linear(ctx, x, axis, where)
    del roi, sizes
    return x


def _places(ctx: Context, old: int, new: int, scale: float) -> np.ndarray:
    """Where each element of the result lies among the old ones."""
    mode, at = ctx.attr("coordinate_transformation_mode"), np.arange(new, dtype=np.float64)
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * ((old - 1) / (new - 1)) if new > 1 else at * 0
    if mode == "half_pixel_symmetric":
        centre = old / 2 * (1 - new / (scale * old))
        return centre + (at + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel" and new == 1:
        return at * 0
    return (at + 0.5) / scale - 0.5


def _nearest(ctx: Context, x: Tensor, axis: int, where: np.ndarray) -> Tensor:
    mode = str(ctx.attr("nearest_mode"))
    shift = {"round_prefer_floor": -0.5, "round_prefer_ceil": 0.5}.get(mode, 0.0)
    return taken_along(ctx, x, axis, np.ceil(where + shift) if mode in ("ceil", "round_prefer_floor") else np.floor(where + shift))


def _linear(ctx: Context, x: Tensor, axis: int, where: np.ndarray) -> Tensor:
    low = np.floor(where)
    share = (where - low).astype(np.float32).reshape(-1, *(1,) * (len(x.shape) - axis - 1))
    x = ctx.plan.stored(x)
    one, other = taken_along(ctx, x, axis, low), taken_along(ctx, x, axis, low + 1)
    part = ctx.plan.constant(share)
    return ctx.plan.stored(ctx.apply("add", one, ctx.apply("mul", part, ctx.apply("sub", other, one))))
