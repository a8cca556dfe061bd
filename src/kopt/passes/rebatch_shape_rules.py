"""Rules of the batch axis for operators that move, cut, join and index, for ``kopt.passes.rebatch``.

Where such an operator spells the batch out in a constant (the target of a Reshape, the end of a Slice, indices into the batch), the
rule also says how to write it for any batch.
"""

from __future__ import annotations

from math import prod

import numpy as np

from kopt.passes.rebatch_rules import Result, apart, first
from kopt.passes.rows import Fixed, NodeRows, Original, Rows, reshaped_rows, row_rule


@row_rule("Transpose")
def transpose(ctx: NodeRows) -> Result:
    """The batch moves with its axis."""
    rows = first(ctx)
    perm = ctx.ints("perm") or tuple(reversed(range(len(ctx.shape(0)))))
    return (rows.at(perm.index(rows.axis)),)


@row_rule("Reshape")
def reshape(ctx: NodeRows) -> Result:
    """Reshape(x, [1, 128, 768])  ==>  Reshape(x, [-1, 128, 768]), -1 on the axis that then holds the batch."""
    rows = first(ctx)
    ctx.array(1, "target dimensions")
    after = ctx.out_shape()
    made = reshaped_rows(ctx, rows, ctx.shape(0), after)
    if prod(dim for axis, dim in enumerate(after) if axis != made.axis) == 0:
        ctx.refuse("an axis of length zero leaves its target open")
    target = np.asarray(after, np.int64)
    target[made.axis] = -1
    ctx.sources[1] = Fixed(target)
    return (made,)


@row_rule("Flatten")
def flatten(ctx: NodeRows) -> Result:
    """The batch joins the axes before ``axis``, or those after it."""
    rows = first(ctx)
    shape = ctx.shape(0)
    given = ctx.attr("axis", 1)
    axis = given if given >= 0 else given + len(shape)
    start, stop = (0, axis) if rows.axis < axis else (axis, len(shape))
    outer = prod(shape[start : rows.axis]) * rows.outer
    inner = prod(shape[rows.axis + 1 : stop]) * rows.inner
    return (Rows(0 if rows.axis < axis else 1, outer, inner),)


@row_rule("Squeeze")
def squeeze(ctx: NodeRows) -> Result:
    """Axes other than the batch are dropped; a Squeeze that names none would drop a batch of one."""
    rows = first(ctx)
    shape = ctx.shape(0)
    given = ctx.array(1, "axes")
    axes = [axis for axis, dim in enumerate(shape) if dim == 1] if given is None else [int(axis) % len(shape) for axis in given]
    apart(ctx, rows, axes, "drops")
    if given is None:
        ctx.sources[1:] = [Fixed(np.asarray(axes, np.int64))]
    return (rows.at(rows.axis - sum(axis < rows.axis for axis in axes)),)


@row_rule("Unsqueeze")
def unsqueeze(ctx: NodeRows) -> Result:
    """Axes of length one come in beside the batch."""
    rows = first(ctx)
    rank = len(ctx.out_shape())
    added = {int(axis) % rank for axis in np.atleast_1d(np.asarray(ctx.array(1, "axes")))}
    kept = [axis for axis in range(rank) if axis not in added]
    return (rows.at(kept[rows.axis]),)


@row_rule("Expand")
def expand(ctx: NodeRows) -> Result:
    """Expand(x, [1, 12, 64])  ==>  Expand(x, [1, 12, 64]) with one on the axis of the batch, which keeps its length."""
    rows = first(ctx)
    target = np.array(ctx.array(1, "target dimensions"), np.int64)
    from_end = rows.axis - len(ctx.shape(0))
    if len(target) >= -from_end:
        if target[from_end] not in (1, ctx.length(rows)):
            ctx.refuse("it repeats the batch")
        target[from_end] = 1
        ctx.sources[1] = Fixed(target)
    return (rows.at(from_end + len(ctx.out_shape())),)


@row_rule("Tile")
def tile(ctx: NodeRows) -> Result:
    """Repeats other axes than the batch."""
    rows = first(ctx)
    repeats = ctx.array(1, "repeats")
    if repeats is None or repeats[rows.axis] != 1:
        ctx.refuse("it repeats the batch")
    return (rows,)


@row_rule("Concat")
def concat(ctx: NodeRows) -> Result:
    """Along another axis than the batch; inputs without rows (class tokens) are repeated for each row."""
    held = {rows for rows in ctx.rows if rows is not None}
    if len(held) != 1:
        ctx.refuse("its inputs have the batch on different axes")
    rows = held.pop()
    apart(ctx, rows, [ctx.axis()], "joins along")
    for index, found in enumerate(ctx.rows):
        if found is None:
            ctx.give_rows(index, rows)
    return (rows,)


@row_rule("Split")
def split(ctx: NodeRows) -> Result:
    """Along another axis than the batch."""
    rows = first(ctx)
    apart(ctx, rows, [ctx.axis()], "splits")
    return ctx.everywhere(rows)


@row_rule("Slice")
def slice_(ctx: NodeRows) -> Result:
    """Other axes than the batch; a slice of the whole batch is written without its end."""
    rows = first(ctx)
    shape = ctx.shape(0)
    starts, given = ctx.array(1, "starts"), ctx.array(3, "axes")
    axes = list(range(0 if starts is None else starts.size)) if given is None else [int(axis) % len(shape) for axis in given]
    if rows.axis not in axes:
        return (rows,)
    position = axes.index(rows.axis)
    ends, steps = ctx.array(2, "ends"), ctx.array(4, "steps")
    whole = starts is not None and ends is not None and starts[position] == 0 and ends[position] >= shape[rows.axis]
    if not whole or (steps is not None and steps[position] != 1):
        ctx.refuse("it cuts the batch")
    new_ends = np.array(ends)
    new_ends[position] = np.iinfo(new_ends.dtype).max
    ctx.sources[2] = Fixed(new_ends)
    return (rows,)


@row_rule("Pad")
def pad(ctx: NodeRows) -> Result:
    """Other axes than the batch."""
    rows = first(ctx)
    rank = len(ctx.shape(0))
    given, pads = ctx.array(3, "axes"), ctx.array(1, "pads")
    axes = list(range(rank)) if given is None else [int(axis) % rank for axis in given]
    padded = [axis for axis, amount in zip(axes, np.reshape(pads, (2, -1)).T, strict=True) if amount.any()]  # type: ignore[arg-type]
    apart(ctx, rows, padded, "pads")
    return (rows,)


@row_rule("Trilu")
def trilu(ctx: NodeRows) -> Result:
    """Matrix by matrix over the leading axes."""
    rows = first(ctx)
    rank = len(ctx.shape(0))
    apart(ctx, rows, [rank - 1, rank - 2], "cuts a triangle over")
    return (rows,)


@row_rule("Resize")
def resize(ctx: NodeRows) -> Result:
    """Other axes than the batch; sizes or scales of all axes are written for the others alone."""
    rows = first(ctx)
    if ctx.node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        ctx.refuse("cropping has no rule")
    rank = len(ctx.shape(0))
    axes = [axis % rank for axis in ctx.ints("axes")] or list(range(rank))
    if ctx.out_shape()[rows.axis] != ctx.shape(0)[rows.axis]:
        ctx.refuse("it resizes the batch")
    if rows.axis not in axes:
        return (rows,)
    position = axes.index(rows.axis)
    for index in (2, 3):
        given = ctx.array(index, "sizes")
        if given is not None and given.size:
            ctx.sources[index] = Fixed(np.delete(given, position))
    ctx.attrs["axes"] = tuple(axis for axis in axes if axis != rows.axis)
    return (rows,)


@row_rule("Gather")
def gather(ctx: NodeRows) -> Result:
    """Rows of a shared table, or along another axis than the batch with shared indices."""
    data, indices = ctx.row(0), ctx.row(1)
    axis, rank = ctx.axis(), len(ctx.shape(1))
    if data is None and indices is not None:
        return (indices.at(axis + indices.axis),)
    if data is None or indices is not None:
        ctx.refuse("both its table and its indices differ from row to row")
    apart(ctx, data, [axis], "indexes")
    return (data if data.axis < axis else data.at(data.axis - 1 + rank),)


@row_rule("GatherElements")
def gather_elements(ctx: NodeRows) -> Result:
    """Along another axis than the batch; what is shared of data and indices is repeated."""
    held = {rows for rows in ctx.rows if rows is not None}
    rows = held.pop()
    if held:
        ctx.refuse("its inputs have the batch on different axes")
    apart(ctx, rows, [ctx.axis()], "indexes")
    for index, found in enumerate(ctx.rows):
        if found is None:
            ctx.give_rows(index, rows)
    return (rows,)


@row_rule("ScatterElements")
def scatter_elements(ctx: NodeRows) -> Result:
    """Like GatherElements, with the updates."""
    return gather_elements(ctx)


@row_rule("GatherND")
def gather_nd(ctx: NodeRows) -> Result:
    """GatherND(x[B, S], i[B, ..., 2]) with i[b, ..., 0] == b  ==>  Gather(x, i[0, ..., 1], axis=1).

    Constant indices that only count through the batch (all zero for a batch of one) say nothing that the batch axis does not say.
    With more index components the rest stays a GatherND over the batch axis.
    """
    data, indices = ctx.row(0), ctx.row(1)
    if ctx.attr("batch_dims"):
        return _gather_nd_batched(ctx)
    array = ctx.constant(1)
    if data is None or indices is not None or array is None or not data.is_plain or data.axis != 0:
        ctx.refuse("its indices into the batch are not constant, or the batch is not axis 0 of its input")
    if array.ndim < 2 or array.shape[0] != ctx.batch:
        ctx.refuse("its indices do not run through the batch")
    counted = np.arange(ctx.batch, dtype=np.int64).reshape(-1, *[1] * (array.ndim - 2))
    if not ((array[..., 0] % ctx.batch == counted).all() and (array[..., 1:] == array[:1, ..., 1:]).all()):
        ctx.refuse("its indices do not run through the batch")
    rest = array[..., 1:].astype(np.int64)
    if rest.shape[-1] != 1:
        ctx.refuse("indices of more than two components have no rule")
    ctx.op = "Gather"
    ctx.attrs = {"axis": 1}
    ctx.sources = [Original(0), Fixed(rest[0, ..., 0])]
    return (Rows(0),)


def _gather_nd_batched(ctx: NodeRows) -> Result:
    held = {rows for rows in ctx.rows if rows is not None}
    rows = held.pop()
    if held or rows.axis >= ctx.attr("batch_dims"):
        ctx.refuse("the batch is not among its batch dimensions")
    for index, found in enumerate(ctx.rows):
        if found is None:
            ctx.give_rows(index, rows)
    return (rows,)


@row_rule("OneHot")
def one_hot(ctx: NodeRows) -> Result:
    """The new axis comes in beside the batch."""
    rows = first(ctx)
    rank = len(ctx.out_shape())
    axis = ctx.attr("axis", -1) % rank
    return (rows if rows.axis < axis else rows.at(rows.axis + 1),)


@row_rule("Shape", "Size")
def shape(ctx: NodeRows) -> Result:
    """Never: what it returns changes with the batch; folding constants first removes it where shapes are fixed."""
    ctx.refuse("what it returns changes with the batch; fold constants first")
