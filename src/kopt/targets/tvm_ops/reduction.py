"""Reductions, softmax, and normalization of rows."""

from __future__ import annotations

from math import prod

import numpy as np

from kopt.ir.graph import MICROSOFT
from kopt.targets.tvm_loops import Operand, RowNorm
from kopt.targets.tvm_ops.registry import Context, translates
from kopt.targets.tvm_plan import Refused, expression
from kopt.targets.tvm_tree import Leaf, Tensor, is_large, leaves
from kopt.targets.tvm_view import joined

MAX_ROW = 1 << 16
"""Elements of a row that a task may hold on its stack."""

_COMBINE = {"ReduceSum": "sum", "ReduceMean": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}


@translates(*_COMBINE, "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")
def reduced(ctx: Context, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Combined over axes."""
    op, given = ctx.node.op, ctx.values(axes, "axes")
    chosen = [] if given is None else [int(axis) % len(x.shape) for axis in given.reshape(-1)]
    if not chosen and ctx.attr("noop_with_empty_axes"):
        return x
    chosen = chosen or list(range(len(x.shape)))
    largest = ctx.plan.reduced(x, chosen, "max") if op == "ReduceLogSumExp" else None
    before = {"ReduceSumSquare": "square", "ReduceL2": "square", "ReduceL1": "abs", "ReduceLogSumExp": "exp"}.get(op)
    if largest is not None:
        x = ctx.apply("sub", x, largest)
    if before:
        x = ctx.apply("mul", x, x) if before == "square" else ctx.apply(before, x)
    mean = op == "ReduceMean"
    if mean and not x.dtype.startswith("float"):
        raise Refused("means of integers")
    scale = 1 / max(1, prod(x.shape[axis] for axis in chosen)) if mean else 1.0
    y = ctx.plan.reduced(x, chosen, _COMBINE.get(op, "sum"), scale)
    after = {"ReduceL2": "sqrt", "ReduceLogSum": "log", "ReduceLogSumExp": "log"}.get(op)
    y = ctx.apply(after, y) if after else y
    y = y if largest is None else ctx.apply("add", y, largest)
    return ctx.plan.reshaped(y, ctx.shape)


@translates("ArgMax", "ArgMin")
def arg_extreme(ctx: Context, x: Tensor) -> Tensor:
    """The first (or last) place of the largest element: the smallest number of a place where it is found."""
    axis, last = ctx.attr("axis") % len(x.shape), bool(ctx.attr("select_last_index"))
    x = ctx.plan.stored(x)
    best = ctx.plan.reduced(x, [axis], "max" if ctx.node.op == "ArgMax" else "min")
    shape = [1] * len(x.shape)
    shape[axis] = x.shape[axis]
    places = ctx.plan.constant(np.arange(x.shape[axis], dtype=np.int64).reshape(shape))
    elsewhere = ctx.number(-1 if last else x.shape[axis], "int64")
    found = ctx.apply("select", ctx.apply("eq", x, best, dtype="bool"), places, elsewhere)
    return ctx.plan.reshaped(ctx.plan.reduced(found, [axis], "max" if last else "min"), ctx.shape)


@translates("Softmax", "LogSoftmax")
def softmax(ctx: Context, x: Tensor) -> Tensor:
    """exp(x) over its sum along an axis, or the logarithm of that."""
    axis, log = ctx.attr("axis") % max(1, len(x.shape)), ctx.node.op == "LogSoftmax"
    if x.dtype == "float32" and axis == len(x.shape) - 1 and 0 < x.shape[axis] <= MAX_ROW:
        return rows(ctx, "log_softmax" if log else "softmax", x)
    x = ctx.plan.stored(x)
    shifted = ctx.apply("sub", x, ctx.plan.reduced(x, [axis], "max"))
    exponents = ctx.plan.stored(ctx.apply("exp", shifted))
    sums = ctx.plan.reduced(exponents, [axis], "sum")
    return ctx.apply("sub", shifted, ctx.plan.stored(ctx.apply("log", sums))) if log else ctx.apply("div", exponents, sums)


def rows(ctx: Context, kind: str, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None, epsilon: float = 0.0) -> Tensor:
    """Rows of f32 along the last axis, normalized by one loop."""
    x = ctx.plan.stored(x) if is_large(x.tree) else x
    read = list(dict.fromkeys(leaves(x.tree)))
    result = ctx.plan.new(x.shape, "float32")
    if not result.size:
        return result
    outer = joined(x.shape[:-1], [leaf.view.strides[:-1] for leaf in read]) or [(1, (0,) * len(read))]
    operands = [Operand(leaf.dtype, (*(steps[k] for _, steps in outer), leaf.view.strides[-1])) for k, leaf in enumerate(read)]
    parameters = [flat(ctx, one, x.shape[-1:]) for one in (scale, bias) if one is not None]
    operands += [Operand("float32", (0,) * len(outer) + (1,)) for _ in parameters]
    sizes = tuple(size for size, _ in outer)
    loop = RowNorm(kind, sizes, x.shape[-1], tuple(operands), expression(x.tree, read), epsilon, bias is not None, 1)
    ctx.plan.add(loop, [*read, *parameters], ctx.plan.leaf(result), prod(sizes))
    return result


def flat(ctx: Context, tensor: Tensor, shape: tuple[int, ...]) -> Leaf:
    """A tensor in memory under another shape; known single numbers are written out."""
    found = ctx.plan.reshaped(ctx.plan.stored(tensor), shape) if prod(tensor.shape) == prod(shape) else ctx.plan.expanded(tensor, shape)
    return ctx.plan.leaf(found)


@translates("LayerNormalization", "RMSNormalization")
def layer_norm(ctx: Context, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """(x - mean) / deviation * scale + bias over the last axes."""
    if ctx.wants(1) or ctx.wants(2):
        raise Refused("its mean and deviation are read")
    axis = ctx.attr("axis") % len(x.shape)
    if x.dtype != "float32" or prod(x.shape[axis:]) > MAX_ROW or prod(scale.shape) not in (1, prod(x.shape[axis:])):
        raise Refused("only f32, rows that fit the stack, and a scale for each element")
    shape = (*x.shape[:axis], prod(x.shape[axis:]))
    kind = "layer" if ctx.node.op == "LayerNormalization" else "rms"
    y = rows(ctx, kind, ctx.plan.reshaped(x, shape), scale, bias, float(ctx.attr("epsilon")))
    return ctx.plan.reshaped(y, ctx.shape)


@translates("InstanceNormalization", "GroupNormalization")
def group_norm(ctx: Context, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Every image's groups of channels normalized over channels and space."""
    channels, rank = x.shape[1], len(x.shape)
    groups = ctx.attr("num_groups") if ctx.node.op == "GroupNormalization" else channels
    x = ctx.plan.stored(x)
    grouped = ctx.plan.reshaped(x, (x.shape[0], groups, prod(x.shape[1:]) // groups))
    share = 1 / grouped.shape[2]
    centred = ctx.plan.stored(ctx.apply("sub", grouped, ctx.plan.reduced(grouped, [2], "sum", share)))
    variance = ctx.plan.reduced(ctx.apply("mul", centred, centred), [2], "sum", share)
    deviation = ctx.plan.stored(ctx.apply("sqrt", ctx.apply("add", variance, ctx.number(ctx.attr("epsilon")))))
    normal = ctx.plan.reshaped(ctx.plan.stored(ctx.apply("div", centred, deviation)), x.shape)
    scale, bias = (ctx.plan.reshaped(one, (channels, *(1,) * (rank - 2))) for one in (scale, bias))
    return ctx.apply("add", ctx.apply("mul", normal, scale), bias)


@translates("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    ctx: Context, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """Layer normalization of a sum."""
    if any(ctx.wants(k) for k in (1, 2, 3)):
        raise Refused("its further outputs are read")
    total = ctx.apply("add", x, skip)
    total = total if added is None else ctx.apply("add", total, added)
    return rows(ctx, "layer", total, scale, bias, float(ctx.attr("epsilon")))
