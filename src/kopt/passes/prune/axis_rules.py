"""How each operator ties the axes of its inputs and outputs; what has no rule here keeps all that it reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kopt.ir.graph import MICROSOFT
from kopt.passes.layout_rules import BROADCASTING, UNARY
from kopt.passes.prune.axes import NodeAxes, Units, axis_rule

Result = list[list[Units]] | None


@axis_rule(*UNARY)
@axis_rule("QuickGelu", "FastGelu", domain=MICROSOFT)
def unary(ctx: NodeAxes) -> Result:
    """Element by element."""
    return [ctx.of(0)] * len(ctx.node.outputs)


@axis_rule(*BROADCASTING)
@axis_rule("BiasGelu", domain=MICROSOFT)
def broadcasting(ctx: NodeAxes) -> Result:
    """Element by element: axes that are as long as the result's are tied."""
    rank = len(ctx.out_shape())
    return [[_aligned(ctx, range(len(ctx.node.inputs)), axis - rank) for axis in range(rank)]]


def _aligned(ctx: NodeAxes, indices: Sequence[int], axis: int) -> Units:
    """The units of an axis, counted from the end, of operands that are broadcast against each other."""
    held = [(ctx.shape(index), ctx.of(index)) for index in indices]
    there = [units[axis] for shape, units in held if len(shape) >= -axis and shape[axis] != 1]
    result = there[0] if there else None
    for each in there[1:]:
        result = ctx.axes.tie(result, each)
    return result


@axis_rule("MatMul")
def matmul(ctx: NodeAxes) -> Result:
    """Products of matrices: a weight's summed axis is tied to the other side's."""
    return _product(ctx, False, False)


@axis_rule("FusedMatMul", domain=MICROSOFT)
def fused_matmul(ctx: NodeAxes) -> Result:
    """Products of matrices that may be transposed."""
    if ctx.attr("transBatchA") or ctx.attr("transBatchB"):
        return None
    return _product(ctx, bool(ctx.attr("transA")), bool(ctx.attr("transB")))


def _product(ctx: NodeAxes, first_transposed: bool, second_transposed: bool) -> Result:
    first, second = ctx.of(0), ctx.of(1)
    if len(first) < 2 or len(second) < 2:
        return None
    rank = len(ctx.out_shape())
    batch = [_aligned(ctx, (0, 1), axis - rank) for axis in range(rank - 2)]
    row, inner = (-1, -2) if first_transposed else (-2, -1)
    inner_2, column = (-1, -2) if second_transposed else (-2, -1)
    _sum_over(ctx, (0, first, inner), (1, second, inner_2))
    for index, units, axis in ((0, first, row), (1, second, column)):
        if ctx.is_weight(index):
            ctx.source(units[axis])
    return [[*batch, first[row], second[column]]]


def _sum_over(ctx: NodeAxes, first: tuple[int, list[Units], int], second: tuple[int, list[Units], int]) -> None:
    """Tie what is summed over; without a weight whose rows could be zero, nothing of it may be cut."""
    weights = [side for side in (first, second) if ctx.is_weight(side[0])]
    if len(weights) != 1:
        ctx.axes.keep(first[1][first[2]])
        ctx.axes.keep(second[1][second[2]])
        return
    ctx.axes.tie(first[1][first[2]], second[1][second[2]])
    index, units, axis = weights[0]
    ctx.consumes(index, axis % len(units))


@axis_rule("Gemm")
@axis_rule("FusedGemm", domain=MICROSOFT)
def gemm(ctx: NodeAxes) -> Result:
    """One product and a bias."""
    found = _product(ctx, bool(ctx.attr("transA")), bool(ctx.attr("transB")))
    if found is None or not ctx.of(2):
        return found
    return [[_with_bias(ctx, units, axis - 2) for axis, units in enumerate(found[0])]]


def _with_bias(ctx: NodeAxes, units: Units, axis: int) -> Units:
    shape, bias = ctx.shape(2), ctx.of(2)
    return ctx.axes.tie(units, bias[axis]) if len(shape) >= -axis and shape[axis] != 1 else units


@axis_rule("Conv")
@axis_rule("FusedConv", domain=MICROSOFT)
def conv(ctx: NodeAxes) -> Result:
    """Channels of the input are summed over; of grouped ones, whole groups stay or go."""
    data, weight = ctx.of(0), ctx.of(1)
    out = weight[0] if weight else None
    if not data or not weight or not ctx.is_weight(1):
        return None
    for units in weight[1 if ctx.attr("group", 1) > 1 else 2 :]:
        ctx.axes.keep(units)
    if ctx.attr("group", 1) > 1:
        out = _grouped(ctx, data[1], out)
    else:
        _sum_over(ctx, (0, data, 1), (1, weight, 1))
        ctx.source(out)
    if ctx.of(2):
        out = ctx.axes.tie(out, ctx.of(2)[0])
    if ctx.node.op == "FusedConv" and ctx.of(3):
        out = ctx.axes.tie(out, ctx.of(3)[1])
    return [[data[0], out, *[None] * (len(weight) - 2)]]


def _grouped(ctx: NodeAxes, data: Units, out: Units) -> Units:
    """Channels of one group, in and out, are one unit."""
    group = ctx.attr("group")
    if data is None or out is None or len(data) % group or len(out) % group:
        ctx.axes.keep(data)
        ctx.axes.keep(out)
        return None
    ctx.axes.merge(np.concatenate([data.reshape(group, -1), out.reshape(group, -1)], axis=1))
    return out


@axis_rule("ConvTranspose")
def conv_transpose(ctx: NodeAxes) -> Result:
    """Like Conv, the weight's first two axes exchanged; grouped ones keep their channels."""
    data, weight = ctx.of(0), ctx.of(1)
    if not data or not weight or not ctx.is_weight(1) or ctx.attr("group", 1) != 1:
        return None
    for units in weight[2:]:
        ctx.axes.keep(units)
    _sum_over(ctx, (0, data, 1), (1, weight, 0))
    ctx.source(weight[1])
    out = ctx.axes.tie(weight[1], ctx.of(2)[0]) if ctx.of(2) else weight[1]
    return [[data[0], out, *[None] * (len(weight) - 2)]]
