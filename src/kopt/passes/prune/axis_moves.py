"""How operators that move, pool or normalize tie the axes of their inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from kopt.ir.types import Dim
from kopt.passes.layout_rules import REDUCTIONS
from kopt.passes.prune.axes import KEPT, NodeAxes, Units, axis_rule

Result = list[list[Units]] | None


def _without(ctx: NodeAxes, kept: Sequence[int], index: int = 0) -> list[Units]:
    """The units of an input of which some axes may not be cut."""
    units = list(ctx.of(index))
    for axis in kept:
        ctx.axes.keep(units[axis])
        units[axis] = None
    return units


@axis_rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "LRN")
def pool(ctx: NodeAxes) -> Result:
    """Channel by channel; LRN looks at neighbouring channels."""
    first = 1 if ctx.node.op == "LRN" else 2
    return [_without(ctx, range(first, len(ctx.of(0))))] * len(ctx.node.outputs)


@axis_rule("BatchNormalization", "InstanceNormalization")
def channel_norm(ctx: NodeAxes) -> Result:
    """Channel by channel, with parameters per channel."""
    units = _without(ctx, range(2, len(ctx.of(0))))
    if len(units) < 2 or ctx.attr("training_mode"):
        return None
    for index in range(1, len(ctx.node.inputs)):
        units[1] = ctx.axes.tie(units[1], ctx.of(index)[0] if ctx.of(index) else None)
    return [units]


@axis_rule("LayerNormalization", "RMSNormalization")
def layer_norm(ctx: NodeAxes) -> Result:
    """The axes that are normalized over stay."""
    ctx.keep(*range(1, len(ctx.node.inputs)))
    units = _without(ctx, range(ctx.axis(default=-1), len(ctx.of(0))))
    rest: list[Units] = [None] * len(units)
    return [units, *[rest] * (len(ctx.node.outputs) - 1)]


@axis_rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def along_axis(ctx: NodeAxes) -> Result:
    """The axis that is normalized over stays."""
    return [_without(ctx, [ctx.axis(default=-1)])]


@axis_rule(*REDUCTIONS)
def reduce(ctx: NodeAxes) -> Result:
    """The axes that are reduced stay."""
    rank, given = len(ctx.of(0)), ctx.constant(1)
    if given is None and ctx.node.input(1) is not None:
        return None
    if (given is None or not given.size) and ctx.attr("noop_with_empty_axes"):
        return [ctx.of(0)]
    axes = [int(axis) % rank for axis in given] if given is not None and given.size else list(range(rank))
    units = _without(ctx, axes)
    return [units if ctx.attr("keepdims", 1) else [each for axis, each in enumerate(units) if axis not in axes]]


@axis_rule("Transpose")
def transpose(ctx: NodeAxes) -> Result:
    """Axes change places."""
    units = ctx.of(0)
    return [[units[axis] for axis in ctx.attr("perm") or range(len(units))[::-1]]]


@axis_rule("Squeeze", "Unsqueeze", "Flatten", "Reshape")
def reshape(ctx: NodeAxes) -> Result:
    """Axes that are split or merged; heads, which come first, are what is cut of a split axis."""
    old, new = ctx.shape(0), ctx.out_shape()
    unknown = [dim for axis, dim in enumerate(new) if isinstance(dim, str) and old[axis : axis + 1] != (dim,)]
    if ctx.node.op == "Reshape" and ctx.constant(1) is None and len(unknown) > 1:
        return None  # no target that is written down says which axis is how long
    return [regroup(ctx, ctx.of(0), ctx.shape(0), ctx.out_shape())]


def regroup(ctx: NodeAxes, units: Sequence[Units], old: Sequence[Dim], new: Sequence[Dim]) -> list[Units]:
    """The units of the axes ``new`` that elements of the axes ``old`` are laid out in, matched from the last axis on."""
    symbols = {
        dim: (1 << 61) + 2 * index + 1 for index, dim in enumerate(dict.fromkeys(dim for dim in (*old, *new) if isinstance(dim, str)))
    }
    sizes = [[symbols[dim] if isinstance(dim, str) else dim for dim in shape] for shape in (old, new)]
    result: list[Units] = [None] * len(new)
    first, second = len(old), len(new)
    while first and second:
        low, high = first - 1, second - 1
        while prod(sizes[0][low:first]) != prod(sizes[1][high:second]):
            if prod(sizes[0][low:first]) < prod(sizes[1][high:second]):
                low -= 1
            else:
                high -= 1
            if low < 0 or high < 0:
                break
        if low < 0 or high < 0:
            break
        result[high:second] = _regroup_block(ctx, units[low:first], old[low:first], new[high:second])
        first, second = low, high
    for each in units[:first]:
        ctx.axes.keep(each)
    return result


def _regroup_block(ctx: NodeAxes, units: Sequence[Units], old: Sequence[Dim], new: Sequence[Dim]) -> list[Units]:
    """The units of axes that hold the same elements."""
    held = [axis for axis, each in enumerate(units) if each is not None]
    if len(old) == 1 and len(new) == 1:
        return [units[0]]
    sizes, wanted = [dim for dim in old if isinstance(dim, int)], [dim for dim in new if isinstance(dim, int)]
    if not held or len(sizes) < len(old) or len(wanted) < len(new):
        for each in units:
            ctx.axes.keep(each)
        return [None] * len(new)
    for axis in held[1:]:
        ctx.axes.keep(units[axis])
    own = units[held[0]]
    shape = [dim if axis == held[0] else 1 for axis, dim in enumerate(sizes)]
    spread = np.broadcast_to(np.reshape(np.asarray(own), shape), sizes).reshape(wanted)
    long = [axis for axis, dim in enumerate(wanted) if dim > 1]
    rows = [np.moveaxis(ctx.axes.sets.roots(spread), axis, 0).reshape(wanted[axis], -1) for axis in long]
    chosen = next((axis for axis, each in zip(long, rows, strict=True) if (each == each[:, :1]).all()), long[0] if long else 0)
    blocks = np.moveaxis(spread, chosen, 0).reshape(wanted[chosen], -1)
    ctx.axes.merge(blocks)
    return [blocks[:, 0] if axis == chosen else None for axis in range(len(new))]


@axis_rule("Concat")
def concat(ctx: NodeAxes) -> Result:
    """One after the other along an axis, tied along the others."""
    axis, rank = ctx.axis(), len(ctx.out_shape())
    inputs = [ctx.of(index) for index in range(len(ctx.node.inputs))]
    if any(len(units) != rank for units in inputs):
        return None
    result = list(inputs[0])
    for units in inputs[1:]:
        result = [ctx.axes.tie(result[k], units[k]) if k != axis else None for k in range(rank)]
    parts = [_or_kept(units[axis], ctx.shape(index)[axis]) for index, units in enumerate(inputs)]
    result[axis] = None if any(part is None for part in parts) else np.concatenate([part for part in parts if part is not None])
    if result[axis] is None:
        for units in inputs:
            ctx.axes.keep(units[axis])
    return [result]


def _or_kept(units: Units, dim: Dim) -> Units:
    """Units of an axis, those that stay spelled out; None where its length is not known."""
    return np.full(dim, KEPT) if units is None and isinstance(dim, int) else units


@axis_rule("Split")
def split(ctx: NodeAxes) -> Result:
    """Parts of an axis."""
    axis, units = ctx.axis(), ctx.of(0)
    lengths = [ctx.out_shape(index)[axis] if value is not None else None for index, value in enumerate(ctx.node.outputs)]
    if not units or any(not isinstance(dim, int) for dim in lengths):
        return None
    ends = np.cumsum(np.array(lengths, np.int64))
    own = units[axis]
    parts = [None] * len(ends) if own is None else np.split(own, ends[:-1])
    return [[part if k == axis else each for k, each in enumerate(units)] for part in parts]


@axis_rule("Slice", "Pad", "Expand", "Tile", "Resize")
def same_where_equal(ctx: NodeAxes) -> Result:
    """Axes that keep their length are passed on, others stay."""
    old, new = ctx.shape(0), ctx.out_shape()
    extra = len(new) - len(old)
    if extra < 0 or not _leaves_alone(ctx):
        return None
    units = _without(ctx, [axis for axis, dim in enumerate(old) if dim != new[axis + extra]])
    return [[*[None] * extra, *units]]


def _leaves_alone(ctx: NodeAxes) -> bool:
    """Whether axes of equal length hold the same elements: slices with a positive step, padding by constants."""
    if ctx.node.op == "Slice":
        steps = ctx.constant(4)
        return ctx.node.input(4) is None or (steps is not None and bool((steps > 0).all()))
    if ctx.node.op == "Pad":
        pads = ctx.constant(1)
        return pads is not None and bool((pads >= 0).all())
    if ctx.node.op == "Expand":
        return ctx.constant(1) is not None
    return ctx.node.op == "Tile" or ctx.node.input(1) is None  # a region of interest crops


@axis_rule("Gather")
def gather(ctx: NodeAxes) -> Result:
    """The axis that is indexed stays, the others surround the indices' axes."""
    axis = ctx.axis()
    units = _without(ctx, [axis])
    if ctx.is_weight(0):
        for each in units:
            ctx.source(each)
    return [[*units[:axis], *[None] * len(ctx.shape(1)), *units[axis + 1 :]]]


@axis_rule("Shape")
def shape(ctx: NodeAxes) -> Result:
    """The lengths that are read stay."""
    rank = len(ctx.of(0))
    end = ctx.attr("end")
    _without(ctx, range(rank)[slice(ctx.attr("start", 0), rank if end is None else end)])
    return [[None]]


@axis_rule("QuantizeLinear", "DequantizeLinear")
def quantize(ctx: NodeAxes) -> Result:
    """Element by element, with scales of the whole tensor or of each channel."""
    units = list(ctx.of(0))
    for index in (1, 2):
        scale = ctx.of(index)
        if len(scale) > 1:
            return None
        if scale and ctx.shape(index) != (1,):
            axis = ctx.axis(default=1)
            units[axis] = ctx.axes.tie(units[axis], scale[0])
    return [units]
