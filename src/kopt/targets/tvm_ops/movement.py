"""Operators that only move elements: they change how their input is read, or copy it in pieces."""

from __future__ import annotations

from math import prod

import numpy as np

from kopt.targets.tvm_ops.registry import Context, translates
from kopt.targets.tvm_plan import Refused
from kopt.targets.tvm_tree import Leaf, Tensor
from kopt.targets.tvm_view import View


@translates("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(ctx: Context, x: Tensor, *_: Tensor | None) -> Tensor:
    """Another shape; which one, the types say."""
    return ctx.plan.reshaped(x, ctx.shape)


@translates("Transpose")
def transpose(ctx: Context, x: Tensor) -> Tensor:
    """Axes in another order."""
    order = ctx.attr("perm") or tuple(reversed(range(len(x.shape))))
    return ctx.plan.permuted(x, order)


@translates("Expand")
def expand(ctx: Context, x: Tensor, _: Tensor) -> Tensor:
    """Repeated along axes of size 1."""
    return ctx.plan.expanded(x if x.is_stored else ctx.plan.stored(x), ctx.shape)


@translates("Shape", "Size")
def shape_of(ctx: Context, x: Tensor) -> Tensor:
    """Sizes, which are known."""
    if ctx.node.op == "Size":
        return ctx.number(x.size)
    sizes = x.shape[ctx.attr("start") or 0 : ctx.attr("end")]
    return ctx.plan.constant(np.asarray(sizes, np.int64))


@translates("Slice")
def slice_(ctx: Context, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    """A part along axes, read in place."""
    begin, end = (ctx.values(one, "limits") for one in (starts, ends))
    if begin is None or end is None:
        raise Refused("no limits")
    chosen, stride = ctx.values(axes, "axes"), ctx.values(steps, "steps")
    chosen = np.arange(len(begin)) if chosen is None else chosen
    stride = np.ones(len(begin), np.int64) if stride is None else stride
    for axis, one, other, step in zip(*(part.reshape(-1).tolist() for part in (chosen, begin, end, stride)), strict=True):
        axis %= len(x.shape)  # noqa: PLW2901
        taken = range(x.shape[axis])[slice(one, other, step)]
        x = sliced(x, axis, taken.start, len(taken), step)
    return x


def sliced(x: Tensor, axis: int, start: int, size: int, step: int = 1) -> Tensor:
    """``size`` elements along an axis from ``start`` on, read in place."""
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    return x.moved(shape, lambda view: view.sliced(axis, start, size, step))


@translates("Split")
def split(ctx: Context, x: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    """Parts along an axis, read in place."""
    axis, start, parts = ctx.attr("axis") % len(x.shape), 0, []
    x = x if x.is_stored else ctx.plan.stored(x)
    for value in ctx.node.outputs:
        if value is None:
            raise Refused("a part that is not named")
        size = value.tensor.static_shape[axis]
        parts.append(sliced(x, axis, start, size))
        start += size
    return tuple(parts)


@translates("Concat")
def concat(ctx: Context, *args: Tensor) -> Tensor:
    """Every part is computed into its place."""
    if len(args) == 1:
        return args[0]
    axis, start = ctx.attr("axis") % len(args[0].shape), 0
    if all(ctx.plan.is_known(arg) for arg in args) and prod(ctx.shape) < 4096:
        return ctx.plan.constant(np.concatenate([found for arg in args if (found := ctx.plan.known(arg)) is not None], axis))
    result = ctx.plan.new(ctx.shape, ctx.dtype)
    for arg in args:
        ctx.plan.write(arg, sliced(result, axis, start, arg.shape[axis]))
        start += arg.shape[axis]
    return result


@translates("Tile")
def tile(ctx: Context, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeated as a whole along axes."""
    times = ctx.values(repeats, "repeats")
    counts = [1] * len(x.shape) if times is None else times.tolist()
    x = ctx.plan.stored(x)
    shape = tuple(part for dim in x.shape for part in (1, dim))
    wide = tuple(part for count, dim in zip(counts, x.shape, strict=True) for part in (count, dim))
    return ctx.plan.reshaped(ctx.plan.expanded(ctx.plan.reshaped(x, shape), wide), ctx.shape)


def padded(ctx: Context, x: Tensor, before: list[int], after: list[int], fill: object) -> Tensor:
    """``x`` between elements ``fill``; negative sizes cut."""
    for axis, (one, other) in enumerate(zip(before, after, strict=True)):
        if one < 0 or other < 0:
            x = sliced(x, axis, max(0, -one), x.shape[axis] - max(0, -one) - max(0, -other))
    low, high = [max(0, one) for one in before], [max(0, one) for one in after]
    if not any(low) and not any(high):
        return x
    shape = tuple(dim + one + other for dim, one, other in zip(x.shape, low, high, strict=True))
    result = ctx.plan.new(shape, x.dtype)
    inner = result
    for axis, (one, other) in enumerate(zip(low, high, strict=True)):
        for start, size in ((0, one), (one + x.shape[axis], other)):
            edge = sliced(inner, axis, start, size)
            ctx.plan.write(ctx.plan.expanded(Tensor((), fill), edge.shape), edge)  # type: ignore[arg-type]
        inner = sliced(inner, axis, one, x.shape[axis])
    ctx.plan.write(x, inner)
    return result


@translates("ConstantOfShape", "Range", "EyeLike")
def filled(ctx: Context, *_: Tensor | None) -> Tensor:
    """Only those that folding did not make constants; nothing of their values is known here."""
    value = ctx.attr("value")
    if ctx.node.op != "ConstantOfShape":
        raise Refused("its values are only known at run time")
    number = 0 if value is None else value.array().item()
    return ctx.plan.expanded(ctx.number(number), ctx.shape)


@translates("DepthToSpace", "SpaceToDepth")
def depth_space(ctx: Context, x: Tensor) -> Tensor:
    """Blocks of pixels as channels, and back."""
    batch, channels, height, width = x.shape
    size = ctx.attr("blocksize")
    if ctx.node.op == "SpaceToDepth":
        shape, order = (batch, channels, height // size, size, width // size, size), (0, 3, 5, 1, 2, 4)
        order = (0, 1, 3, 5, 2, 4) if ctx.attr("mode") == "CRD" else order
    elif ctx.attr("mode") == "DCR":
        shape, order = (batch, size, size, channels // size**2, height, width), (0, 3, 4, 1, 5, 2)
    else:
        shape, order = (batch, channels // size**2, size, size, height, width), (0, 1, 4, 2, 5, 3)
    return ctx.plan.reshaped(ctx.plan.permuted(ctx.plan.reshaped(x, shape), order), ctx.shape)


@translates("Trilu")
def trilu(ctx: Context, x: Tensor, k: Tensor | None = None) -> Tensor:
    """Zeros above or below a diagonal."""
    given = ctx.values(k, "diagonal")
    diagonal = 0 if given is None else int(given.item())
    mask = np.tri(x.shape[-2], x.shape[-1], k=diagonal - 1 if ctx.attr("upper") else diagonal, dtype=bool)
    keep = ctx.plan.constant(~mask if ctx.attr("upper") else mask)
    return ctx.apply("select", ctx.plan.expanded(keep, x.shape), x, ctx.plan.expanded(ctx.number(0), x.shape))


def windows(
    x: Tensor, axes: tuple[int, ...], sizes: tuple[int, ...], kernel: tuple[int, ...], steps: tuple[tuple[int, int], ...]
) -> Tensor:
    """Windows of a stored tensor as further axes, read in place.

    Args:
        x: in memory.
        axes: along which windows slide.
        sizes: windows along each.
        kernel: elements of a window along each.
        steps: stride and dilation along each.
    """
    if not isinstance(x.tree, Leaf):
        raise TypeError("windows are read from memory")
    view, shape, strides = x.tree.view, list(x.shape), list(x.tree.view.strides)
    for axis, size, (stride, _) in zip(axes, sizes, steps, strict=True):
        shape[axis], strides[axis] = size, view.strides[axis] * stride
    inner = [view.strides[axis] * dilation for axis, (_, dilation) in zip(axes, steps, strict=True)]
    whole = (*shape, *kernel)
    return Tensor(whole, Leaf(x.tree.storage, View(whole, (*strides, *inner), view.offset)))
