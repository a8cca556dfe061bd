"""Descriptions of the loops that programs of the tvm backend run beside kopt's kernels: plain fields, from which code is emitted.

A description is what the code depends on and nothing else: equal descriptions share their code. Expressions are nested tuples:
``("leaf", k, dtype)`` the element of operand k, ``("number", value, dtype)``, ``("apply", name, dtype, arguments)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

Expression: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Operand:
    """An array that a loop reads or writes.

    Attributes:
        dtype: of its elements.
        strides: elements between neighbours along each axis of the loop; 0 repeats.
    """

    dtype: str
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Map:
    """Every element of the result is an expression of the operands' elements at the same place.

    Attributes:
        shape: of the loop; axes that run together are joined.
        operands: what is read.
        result: what is written.
        expression: of one element.
        tasks: pieces that may run at the same time.
    """

    shape: tuple[int, ...]
    operands: tuple[Operand, ...]
    result: Operand
    expression: Expression
    tasks: int


@dataclass(frozen=True)
class Reduce:
    """Combines an expression over axes.

    Attributes:
        kept: sizes of the axes that stay; the result is contiguous over them.
        reduced: sizes of the axes that go; operands' strides name kept axes first.
        operands: what is read.
        combine: "sum", "prod", "max", "min".
        dtype: of the result.
        expression: of one element.
        across: whether vectors run along the last kept axis, else along the last reduced one.
        scale: what the result is multiplied by.
        tasks: pieces that may run at the same time.
    """

    kept: tuple[int, ...]
    reduced: tuple[int, ...]
    operands: tuple[Operand, ...]
    combine: str
    dtype: str
    expression: Expression
    across: bool
    scale: float
    tasks: int


@dataclass(frozen=True)
class RowNorm:
    """Softmax or normalization of rows of f32; the expression of a row is computed once, into a buffer of the task.

    Attributes:
        kind: "softmax", "masked_softmax" (zeros for a row that is -inf throughout), "log_softmax", "layer" or "rms".
        rows: sizes of the axes before the last.
        size: elements of a row.
        operands: what the expression reads; strides along (rows..., row). For "layer" and "rms" the scale and, with ``bias``,
            the bias follow, of shape (size,).
        expression: of one element.
        epsilon: added to the variance.
        bias: whether a bias is added.
        tasks: pieces that may run at the same time.
    """

    kind: str
    rows: tuple[int, ...]
    size: int
    operands: tuple[Operand, ...]
    expression: Expression
    epsilon: float
    bias: bool
    tasks: int


@dataclass(frozen=True)
class Window:
    """Largest or mean element of windows over channels-last f32 images, ``(N, H, W, C)``.

    Attributes:
        kind: "max", "mean" (of the elements inside) or "mean_padded" (zeros outside count).
        image: (N, H, W, C).
        output: (OH, OW).
        kernel: of the window.
        strides: of the window.
        pads: above, left.
        tasks: pieces that may run at the same time.
    """

    kind: str
    image: tuple[int, int, int, int]
    output: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    tasks: int


@dataclass(frozen=True)
class Rows:
    """Rows of a table by number: ``result[o, i, :] = table[o, index[i], :]``; negative numbers count from the end.

    Attributes:
        outer: tables that lie one after the other.
        limit: rows of each.
        size: elements of a row.
        count: numbers.
        dtype: of the table.
        index: dtype of the numbers.
        tasks: pieces that may run at the same time.
    """

    outer: int
    limit: int
    size: int
    count: int
    dtype: str
    index: str
    tasks: int


@dataclass(frozen=True)
class Batched:
    """Products of f32 matrices that are both computed: ``y[b] = x[b] @ w[b] * scale``.

    Attributes:
        batch: sizes of the batch axes.
        m: rows of x.
        k: terms of a sum.
        n: columns of w, at least the lanes of a vector.
        left: strides of x along (batch..., m, k).
        right: strides of w along (batch..., k); its columns lie next to each other.
        rows: of a register tile.
        panel: columns of a register tile.
        tasks: pieces that may run at the same time.
    """

    batch: tuple[int, ...]
    m: int
    k: int
    n: int
    left: tuple[int, ...]
    right: tuple[int, ...]
    rows: int
    panel: int
    tasks: int


Loop: TypeAlias = Map | Reduce | RowNorm | Window | Rows | Batched


def work(loop: Loop) -> int:
    """Elements that a loop reads or operations it does, whichever is more: a measure of its time."""
    if isinstance(loop, Map):
        return prod(loop.shape) * (1 + _operations(loop.expression))
    if isinstance(loop, Reduce):
        return prod(loop.kept) * prod(loop.reduced) * (1 + _operations(loop.expression))
    if isinstance(loop, RowNorm):
        return prod(loop.rows) * loop.size * (4 + _operations(loop.expression))
    if isinstance(loop, Window):
        return loop.image[0] * prod(loop.output) * loop.image[3] * prod(loop.kernel)
    if isinstance(loop, Rows):
        return loop.outer * loop.count * loop.size
    return prod(loop.batch) * loop.m * loop.k * loop.n // 4


def _operations(expression: Expression) -> int:
    if expression[0] != "apply":
        return 0
    cost = 12 if expression[1] in ("exp", "tanh", "erf", "gelu", "gelu_tanh", "log", "pow", "sigmoid") else 1
    return cost + sum(_operations(one) for one in expression[3])
