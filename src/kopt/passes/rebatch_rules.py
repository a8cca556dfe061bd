"""Per-operator rules of the batch axis, for ``kopt.passes.rebatch``: how each operator carries rows from inputs to outputs.

Every rule holds for every batch; see ``kopt.passes.rows`` for the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kopt.ir.graph import KOPT, MICROSOFT
from kopt.passes.layout_rules import BROADCASTING, REDUCTIONS, UNARY
from kopt.passes.rows import NodeRows, Rows, row_rule

Result = tuple[Rows | None, ...]


@row_rule(*UNARY)
@row_rule("QuickGelu", "FastGelu", domain=MICROSOFT)
def unary(ctx: NodeRows) -> Result:
    """Element by element; further inputs (the bounds of Clip) are scalars."""
    ctx.only(0)
    mode = ctx.constant(2)
    if ctx.node.op == "Dropout" and ctx.has(2) and (mode is None or mode.any()):
        ctx.refuse("dropout in training mode is random")
    return ctx.everywhere(ctx.rows[0])


def aligned(ctx: NodeRows, indices: Sequence[int], rank: int) -> Rows:
    """The rows of operands that are broadcast against each other, on an output of ``rank`` axes.

    All that have rows have the same ones, counted from the end; the others have length one there, or are repeated.

    Raises:
        RowRefusal: rows on different axes.
    """
    held = {rows.from_end(len(ctx.shape(index))) for index in indices if (rows := ctx.row(index)) is not None}
    if len(held) != 1:
        ctx.refuse("its inputs have the batch on different axes")
    rows = held.pop()
    for index in indices:
        shape = ctx.shape(index)
        if ctx.row(index) is None and len(shape) >= -rows.axis and shape[rows.axis] != 1:
            ctx.give_rows(index, rows.at(rows.axis + len(shape)))
    return rows.at(rows.axis + rank)


@row_rule(*BROADCASTING)
@row_rule("BiasGelu", domain=MICROSOFT)
def broadcasting(ctx: NodeRows) -> Result:
    """Element by element, operands broadcast."""
    present = [index for index in range(len(ctx.rows)) if ctx.has(index)]
    return (aligned(ctx, present, len(ctx.out_shape())),)


def apart(ctx: NodeRows, rows: Rows, axes: Sequence[int], deed: str) -> None:
    """The batch is not among ``axes``.

    Raises:
        RowRefusal: it is.
    """
    if rows.axis in axes:
        ctx.refuse(f"it {deed} axis {rows.axis}, which holds the batch")


def first(ctx: NodeRows) -> Rows:
    """The rows of input 0, the only input that has some.

    Raises:
        RowRefusal: another one has.
    """
    ctx.only(0)
    rows = ctx.rows[0]
    if rows is None:
        ctx.refuse("its first input has no batch")
    return rows


@row_rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum")
def along_axis(ctx: NodeRows) -> Result:
    """Along one axis, not that of the batch."""
    rows = first(ctx)
    rank = len(ctx.shape(0))
    axis = int(np.reshape(ctx.array(1, "axes"), -1)[0]) % rank if ctx.node.op == "CumSum" else ctx.axis(default=-1)  # type: ignore[arg-type]
    apart(ctx, rows, [axis], "works along")
    return (rows,)


@row_rule("QuantizeLinear", "DequantizeLinear")
def quantize(ctx: NodeRows) -> Result:
    """Element by element; scales per channel lie on another axis."""
    rows = first(ctx)
    if ctx.shape(1):
        apart(ctx, rows, [ctx.axis(default=1)], "scales along")
        if len(ctx.shape(1)) > 1 and ctx.shape(1)[rows.axis] != 1:
            ctx.refuse("its scales are laid out in blocks over the batch")
    return (rows,)


@row_rule("DynamicQuantizeLinear")
def dynamic_quantize(ctx: NodeRows) -> Result:
    """Never: one scale comes out of all rows together."""
    ctx.refuse("its scale is computed over the whole batch")


@row_rule(*REDUCTIONS)
def reduce(ctx: NodeRows) -> Result:
    """Over axes other than the batch."""
    rows = first(ctx)
    rank = len(ctx.shape(0))
    given = ctx.array(1, "axes")
    if given is None or given.size == 0:
        if ctx.attr("noop_with_empty_axes"):
            return (rows,)
        given = np.arange(rank)
    axes = [int(axis) % rank for axis in given]
    apart(ctx, rows, axes, "reduces")
    return (rows if ctx.attr("keepdims", 1) else rows.at(rows.axis - sum(axis < rows.axis for axis in axes)),)


@row_rule("ArgMax", "ArgMin")
def arg_reduce(ctx: NodeRows) -> Result:
    """Over an axis other than the batch."""
    rows = first(ctx)
    axis = ctx.axis()
    apart(ctx, rows, [axis], "reduces")
    return (rows if ctx.attr("keepdims", 1) else rows.at(rows.axis - (axis < rows.axis)),)


@row_rule("TopK")
def top_k(ctx: NodeRows) -> Result:
    """Along an axis other than the batch."""
    rows = first(ctx)
    apart(ctx, rows, [ctx.axis(default=-1)], "sorts")
    return ctx.everywhere(rows)


@row_rule("LayerNormalization", "RMSNormalization")
def layer_normalization(ctx: NodeRows) -> Result:
    """Over the axes from ``axis`` on, the batch before them."""
    rows = first(ctx)
    apart(ctx, rows, range(ctx.axis(default=-1), len(ctx.shape(0))), "normalizes over")
    return ctx.everywhere(rows)


@row_rule("MatMul", "MatMulInteger")
@row_rule("FusedMatMul", domain=MICROSOFT)
def matmul(ctx: NodeRows) -> Result:
    """Matrices over a batch of the leading axes; the batch may also be rows of the left or columns of the right matrix."""
    ctx.only(0, 1)
    transposed = any(ctx.attr(name) for name in ("transA", "transB"))
    matrix = any(rows is not None and rows.axis >= len(ctx.shape(index)) - 2 for index, rows in enumerate(ctx.rows[:2]))
    if ctx.attr("transBatchA") or ctx.attr("transBatchB") or (transposed and matrix):
        ctx.refuse("its transposed form has no rule")
    return (_matmul(ctx, 0, 1),)


@row_rule("QLinearMatMul")
def qlinear_matmul(ctx: NodeRows) -> Result:
    """Quantized: the matrices are inputs 0 and 3, scales and zero points the same for all rows."""
    ctx.only(0, 3)
    return (_matmul(ctx, 0, 3),)


def _matmul(ctx: NodeRows, left: int, right: int) -> Rows:
    a, b, rank = ctx.shape(left), ctx.shape(right), len(ctx.out_shape())
    rows_a, rows_b = ctx.row(left), ctx.row(right)
    if rows_a is not None and rows_a.axis == len(a) - 1:
        ctx.refuse("it sums over the batch")
    if rows_b is not None and rows_b.axis == max(0, len(b) - 2):
        ctx.refuse("it sums over the batch")
    if rows_a is not None and rows_a.axis == len(a) - 2 and rows_b is None:
        return rows_a.at(rank - (1 if len(b) == 1 else 2))
    if rows_b is not None and rows_b.axis == len(b) - 1 and rows_a is None:
        return rows_b.at(rank - 1)
    if len(a) < 2 or len(b) < 2:
        if len(b) == 1 and rows_a is not None and rows_b is None:
            return rows_a
        ctx.refuse("a vector in place of a matrix has no rule here")
    if any(rows is not None and rows.axis >= len(shape) - 2 for rows, shape in ((rows_a, a), (rows_b, b))):
        ctx.refuse("it mixes the rows of both of its inputs")
    return aligned(ctx, [left, right], rank)


@row_rule("Gemm")
@row_rule("FusedGemm", domain=MICROSOFT)
def gemm(ctx: NodeRows) -> Result:
    """Rows of A (its columns where transA is set) or columns of B; C is the same for all of them or has the same rows."""
    a, b, c = ctx.row(0), ctx.row(1), ctx.row(2)
    if a is not None and b is not None:
        ctx.refuse("it mixes the rows of both of its matrices")
    if a is not None:
        out = a.at(0) if a.axis == ctx.attr("transA") else None
    elif b is not None:
        out = b.at(1) if b.axis == 1 - ctx.attr("transB") else None
    else:
        ctx.refuse("only its bias differs from row to row")
    if out is None:
        ctx.refuse("it sums over the batch")
    shape = ctx.shape(2)
    from_end = out.axis - 2
    if c is not None and c.from_end(len(shape)) != out.from_end(2):
        ctx.refuse("its bias has the batch on another axis")
    if c is None and len(shape) >= -from_end and shape[from_end] != 1:
        ctx.give_rows(2, out.at(from_end + len(shape)))
    return (out,)


@row_rule("Einsum")
def einsum(ctx: NodeRows) -> Result:
    """The batch is one letter, in all inputs that have rows, in no other one, and in the output."""
    equation = str(ctx.node.attrs["equation"]).replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation:
        ctx.refuse("only equations with an output and without an ellipsis have a rule")
    letters = {(term[rows.axis], rows.outer, rows.inner) for term, rows in zip(terms, ctx.rows, strict=True) if rows is not None}
    if len(letters) != 1:
        ctx.refuse("its inputs have the batch on different letters")
    letter, outer, inner = letters.pop()
    if out.count(letter) != 1:
        ctx.refuse("it sums over the batch")
    for index, (term, rows) in enumerate(zip(terms, ctx.rows, strict=True)):
        if term.count(letter) > 1:
            ctx.refuse("it takes a diagonal of the batch")
        if rows is None and letter in term:
            ctx.give_rows(index, Rows(term.index(letter), outer, inner))
    return (Rows(out.index(letter), outer, inner),)


CONVOLUTIONS = (
    "Conv",
    "ConvTranspose",
    "ConvInteger",
    "MaxPool",
    "AveragePool",
    "LpPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    "BatchNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "LRN",
    "DepthToSpace",
    "SpaceToDepth",
    "MeanVarianceNormalization",
    "QLinearConv",
)


@row_rule(*CONVOLUTIONS)
@row_rule("ConvNhwc", "ConvTransposeNhwc", "MaxPoolNhwc", "AveragePoolNhwc", "LpPoolNhwc", "GlobalAveragePoolNhwc", domain=KOPT)
def convolution(ctx: NodeRows) -> Result:
    """Image by image along axis 0, whatever that axis is made of; weights and statistics are the same for all."""
    rows = first(ctx)
    if rows.axis != 0:
        ctx.refuse(f"the batch is on axis {rows.axis}, where it expects channels or pixels")
    if ctx.node.op == "BatchNormalization" and ctx.attr("training_mode"):
        ctx.refuse("batch normalization in training mode mixes the rows")
    if ctx.node.op == "MeanVarianceNormalization" and 0 in (ctx.ints("axes") or (0, 2, 3)):
        ctx.refuse("it normalizes over the batch")
    if ctx.node.op == "MaxPool" and len(ctx.node.outputs) > 1 and ctx.node.outputs[1] is not None:
        ctx.refuse("the indices it returns count across the batch")
    return ctx.everywhere(rows)


@row_rule("FusedConv", domain=MICROSOFT)
@row_rule("FusedConvNhwc", domain=KOPT)
def fused_conv(ctx: NodeRows) -> Result:
    """A convolution that adds its input 3, of the shape of the output."""
    ctx.only(0, 3)
    rows = ctx.rows[0]
    if rows is None or rows.axis != 0:
        ctx.refuse("the batch is not on axis 0")
    if ctx.has(3):
        aligned(ctx, [0, 3], len(ctx.out_shape()))
    return (rows,)


@row_rule("GridSample")
def grid_sample(ctx: NodeRows) -> Result:
    """Image by image along axis 0, each with its own grid."""
    return (_leading(ctx, (0, 1)),)


def _leading(ctx: NodeRows, indices: Sequence[int], axis: int = 0) -> Rows:
    """All of the given inputs have their rows on ``axis``, those without are repeated."""
    ctx.only(*indices)
    held = {rows for index in indices if (rows := ctx.row(index)) is not None}
    rows = held.pop()
    if held or rows.axis != axis:
        ctx.refuse(f"the batch is not on axis {axis} of all of its inputs")
    for index in indices:
        if ctx.has(index) and ctx.row(index) is None:
            ctx.give_rows(index, rows)
    return rows


@row_rule("Attention")
def attention(ctx: NodeRows) -> Result:
    """Q, K, V and the caches along axis 0; a mask of four axes too, a smaller one is shared."""
    mask = ctx.row(3)
    if mask is not None and (mask.axis != 0 or len(ctx.shape(3)) != 4):
        ctx.refuse("its mask has the batch on another axis than the first of four")
    rows = _leading(ctx, [index for index in (0, 1, 2, 3, 4, 5, 6) if index != 3 or mask is not None])
    if mask is None and len(ctx.shape(3)) == 4 and ctx.shape(3)[0] != 1:
        ctx.give_rows(3, rows)
    if len(ctx.out_shape()) > 2 and not rows.is_plain:
        ctx.refuse("its batch axis is merged with another one")
    return ctx.everywhere(rows)


@row_rule("RotaryEmbedding")
def rotary_embedding(ctx: NodeRows) -> Result:
    """X and the position ids along axis 0; tables indexed by position are shared, tables of three axes are not."""
    own = (0, 3) if ctx.has(3) else (0, 1, 2)
    return (_leading(ctx, own),)


@row_rule("LSTM", "GRU", "RNN")
def recurrent(ctx: NodeRows) -> Result:
    """The batch is axis 1 of X and of the states (axis 0 where layout is 1); initial states that are shared are repeated."""
    axis = 0 if ctx.attr("layout") else 1
    ctx.only(0, 4, 5, 6)
    rows = ctx.rows[0]
    if rows is None or rows.axis != axis:
        ctx.refuse(f"the batch is not axis {axis} of its input")
    for index in (4, 5, 6):
        wanted = rows.at(0) if index == 4 else rows
        if ctx.has(index) and ctx.row(index) is None:
            ctx.give_rows(index, wanted)
        elif ctx.has(index) and ctx.row(index) != wanted:
            ctx.refuse(f"its input {index} has the batch on another axis")
    outputs = (rows.at(0 if axis == 0 else 2), rows, rows)
    return tuple(outputs[: len(ctx.node.outputs)])
