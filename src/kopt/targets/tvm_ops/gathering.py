"""Elements chosen by numbers that are computed at run time, as rows of a table."""

from __future__ import annotations

from math import prod

import numpy as np

from kopt.targets.tvm_loops import Rows
from kopt.targets.tvm_ops.movement import padded, sliced
from kopt.targets.tvm_ops.registry import Context, translates
from kopt.targets.tvm_plan import Refused
from kopt.targets.tvm_tree import Number, Tensor


@translates("Gather")
def gather(ctx: Context, table: Tensor, indices: Tensor) -> Tensor:
    """Rows of a table by number; with one known number it is a slice."""
    axis = ctx.attr("axis") % len(table.shape)
    if isinstance(indices.tree, Number):
        row = int(indices.tree.value) % table.shape[axis]
        return ctx.plan.reshaped(sliced(table, axis, row, 1), ctx.shape)
    outer, inner = prod(table.shape[:axis]), prod(table.shape[axis + 1 :])
    return taken(ctx, table, (outer, table.shape[axis], inner), indices)


def taken(ctx: Context, table: Tensor, sizes: tuple[int, int, int], numbers: Tensor) -> Tensor:
    """Rows of a table seen as (outer, rows, inner), by the same numbers for every outer part."""
    return rows_of(ctx, table, sizes, numbers, ctx.shape)


def rows_of(ctx: Context, table: Tensor, sizes: tuple[int, int, int], numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same, as a tensor of the given shape."""
    (outer, rows, inner), plan = sizes, ctx.plan
    result = plan.new(shape, table.dtype)
    if result.size and rows:
        loop = Rows(outer, rows, inner, numbers.size, table.dtype, numbers.dtype, 1)
        plan.add(loop, [plan.leaf(table), plan.leaf(numbers)], plan.leaf(result), outer * numbers.size)
    return result


@translates("GatherElements")
def gather_elements(ctx: Context, table: Tensor, indices: Tensor) -> Tensor:
    """Every element from the place its number names along an axis."""
    axis = ctx.attr("axis") % len(table.shape)
    terms = [_steps(ctx, indices.shape, table.shape, k) for k in range(len(table.shape)) if k != axis]
    place = _scaled(ctx, _counted(ctx, indices, table.shape[axis]), prod(table.shape[axis + 1 :]))
    for term in terms:
        place = ctx.apply("add", place, term, dtype="int64")
    return taken(ctx, table, (1, table.size, 1), place)


@translates("GatherND")
def gather_nd(ctx: Context, table: Tensor, indices: Tensor) -> Tensor:
    """Rows of a table by tuples of numbers, batch by batch."""
    batch, depth = ctx.attr("batch_dims"), indices.shape[-1]
    sizes = table.shape[batch : batch + depth]
    place: Tensor | None = None
    for k, size in enumerate(sizes):
        one = sliced(indices if indices.is_stored else ctx.plan.stored(indices), len(indices.shape) - 1, k, 1)
        one = _scaled(ctx, _counted(ctx, ctx.plan.reshaped(one, indices.shape[:-1]), size), prod(sizes[k + 1 :]))
        place = one if place is None else ctx.apply("add", place, one, dtype="int64")
    if place is None:
        place = ctx.plan.expanded(ctx.number(0, "int64"), indices.shape[:-1])
    if batch:
        first = np.arange(prod(table.shape[:batch]), dtype=np.int64).reshape(table.shape[:batch]) * prod(sizes)
        shape = (*first.shape, *(1,) * (len(place.shape) - batch))
        place = ctx.apply("add", place, ctx.plan.constant(first.reshape(shape)), dtype="int64")
    rows = prod(table.shape[: batch + depth])
    return taken(ctx, table, (1, rows, prod(table.shape[batch + depth :])), place)


def _counted(ctx: Context, indices: Tensor, size: int) -> Tensor:
    """Numbers as int64; negative ones count from the end."""
    wide = indices if indices.dtype == "int64" else ctx.apply("cast", indices, dtype="int64")
    negative = ctx.apply("lt", wide, ctx.number(0, "int64"), dtype="bool")
    return ctx.apply("select", negative, ctx.apply("add", wide, ctx.number(size, "int64"), dtype="int64"), wide, dtype="int64")


def _scaled(ctx: Context, numbers: Tensor, factor: int) -> Tensor:
    return numbers if factor == 1 else ctx.apply("mul", numbers, ctx.number(factor, "int64"), dtype="int64")


def _steps(ctx: Context, shape: tuple[int, ...], table: tuple[int, ...], axis: int) -> Tensor:
    """What an element's place along an axis adds to its place in the table."""
    own = [1] * len(shape)
    own[axis] = shape[axis]
    return ctx.plan.constant((np.arange(shape[axis], dtype=np.int64) * prod(table[axis + 1 :])).reshape(own))


@translates("Pad")
def pad(ctx: Context, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    """A constant around the tensor, or its own elements: nearest, mirrored or from the other side."""
    given, chosen = ctx.values(pads, "sizes"), ctx.values(axes, "axes")
    if given is None:
        raise Refused("no sizes")
    before, after = [0] * len(x.shape), [0] * len(x.shape)
    places = range(len(x.shape)) if chosen is None else [axis % len(x.shape) for axis in chosen.tolist()]
    for k, axis in enumerate(places):
        before[axis], after[axis] = int(given[k]), int(given[len(given) // 2 + k])
    if ctx.attr("mode") == "constant":
        return padded(ctx, x, before, after, Number(0, x.dtype) if value is None else ctx.plan.reshaped(value, ()).tree)
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        if low < 0 or high < 0 or (0 in x.shape and (low or high)):
            raise Refused("what is cut off, or nothing, is repeated")
        if low or high:
            numbers = np.pad(np.arange(x.shape[axis]), (low, high), mode=ctx.attr("mode"))
            x = taken_along(ctx, x, axis, numbers)
    return x


def taken_along(ctx: Context, x: Tensor, axis: int, numbers: np.ndarray) -> Tensor:
    """Elements along an axis by known numbers, kept inside."""
    size = x.shape[axis]
    held = ctx.plan.constant(np.clip(numbers, 0, size - 1).astype(np.int64).reshape(-1))
    shape = (*x.shape[:axis], len(numbers), *x.shape[axis + 1 :])
    return rows_of(ctx, x, (prod(x.shape[:axis]), size, prod(x.shape[axis + 1 :])), held, shape)
