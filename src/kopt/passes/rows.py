"""Which rows of a batch a value holds, and how one node carries them on: the ground that rebatching stands on.

A *row* is what one element of the batch contributes. ``Rows(axis, outer, inner)`` says that axis ``axis`` of a value is
``outer x batch x inner`` elements long, in that nesting, and that everything at batch position n depends on row n of
the inputs alone. ``Rows(0)`` is a plain leading batch axis; ``Rows(0, 1, 128)`` are the rows of ``Reshape(x[N, 128, 768],
[N * 128, 768])``. No rows (None) means that the value does not depend on the inputs at all.

A rule (``kopt.passes.rebatch_rules``) proves the same of the outputs of one node, for every batch, and says what of the node must
be written differently to take another batch. What has no rule, or no proof, is refused with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NoReturn, TypeAlias

import numpy as np

from kopt.ir.graph import ONNX, Attr, Node
from kopt.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the batch lies in a value: axis ``axis`` holds ``outer * batch * inner`` elements, in that nesting."""

    axis: int
    outer: int = 1
    inner: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether the axis is the batch and nothing else."""
        return self.outer == 1 and self.inner == 1

    def at(self, axis: int) -> Rows:
        """The same rows on another axis."""
        return Rows(axis, self.outer, self.inner)

    def from_end(self, rank: int) -> Rows:
        """The same rows with the axis counted from the end, as broadcasting counts it (negative)."""
        return self.at(self.axis - rank)


class RowRefusal(Exception):  # noqa: N818 (a verdict that travels to the caller of the analysis, who words the error)
    """A node whose rows cannot be proven independent, and why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Original:
    """An input taken over: position ``index`` of the original node."""

    index: int


@dataclass(frozen=True, slots=True)
class Fixed:
    """A constant input with the given values."""

    array: np.ndarray


@dataclass(frozen=True, slots=True)
class Spread:
    """An input without rows, repeated for every row of the batch so that it holds ``rows``."""

    index: int
    rows: Rows


Source: TypeAlias = Original | Fixed | Spread | None


class NodeRows:
    """What a rule sees of one node, and where it writes down the node's new form.

    Attributes:
        node: the node in the original graph; all its values are tensors of known shape.
        batch: the size of the batch in the original graph.
        rows: of each input, None where it has none or is absent.
        repeated: for inputs without rows, along what they are known to hold the same for every row.
        sources: the inputs of the rewritten node; a rule replaces entries.
        attrs: attributes of the rewritten node that differ.
        op: operator of the rewritten node.
    """

    def __init__(
        self,
        node: Node,
        batch: int,
        rows: Sequence[Rows | None],
        constants: Mapping[int, np.ndarray],
        repeated: Mapping[int, frozenset[Rows]] | None = None,
    ) -> None:
        self.node = node
        self.repeated = repeated or {}
        self.batch = batch
        self.rows = tuple(rows)
        self.sources: list[Source] = [None if value is None else Original(index) for index, value in enumerate(node.inputs)]
        self.attrs: dict[str, Attr] = {}
        self.op = node.op
        self._constants = constants

    def refuse(self, reason: str) -> NoReturn:
        """Decline.

        Raises:
            RowRefusal: always.
        """
        raise RowRefusal(reason)

    def row(self, index: int) -> Rows | None:
        """The rows of an input, None where it is absent."""
        return self.rows[index] if index < len(self.rows) else None

    def has(self, index: int) -> bool:
        """Whether the input is there."""
        return self.node.input(index) is not None

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of an input in the original graph; () where it is absent."""
        value = self.node.input(index)
        return () if value is None else value.shape

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an output in the original graph."""
        value = self.node.outputs[index]
        return () if value is None else value.shape

    def array(self, index: int, what: str) -> np.ndarray | None:
        """The values of a constant input, None where it is absent.

        Raises:
            RowRefusal: it is there and not constant.
        """
        if not self.has(index):
            return None
        if index not in self._constants:
            self.refuse(f"its {what} are computed at run time")
        return self._constants[index]

    def constant(self, index: int) -> np.ndarray | None:
        """The values of an input where it is constant."""
        return self._constants.get(index)

    def attr(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.node.attrs.get(name, default))  # type: ignore[arg-type]

    def axis(self, index: int = 0, default: int = 0) -> int:
        """The attribute ``axis``, counted from the front of input ``index``."""
        return self.attr("axis", default) % max(1, len(self.shape(index)))

    def ints(self, name: str) -> tuple[int, ...]:
        """An attribute that is a list of integers; () where it is absent."""
        found = self.node.attrs.get(name)
        return tuple(int(item) for item in found) if isinstance(found, tuple) else ()  # type: ignore[arg-type]

    def only(self, *allowed: int) -> None:
        """All inputs but the ``allowed`` are free of rows.

        Raises:
            RowRefusal: one is not.
        """
        for index, rows in enumerate(self.rows):
            if rows is not None and index not in allowed:
                self.refuse(f"its input {index} differs from row to row")

    def length(self, rows: Rows) -> int:
        """How long the axis of ``rows`` is in the original graph."""
        return rows.outer * self.batch * rows.inner

    def everywhere(self, rows: Rows | None) -> tuple[Rows | None, ...]:
        """The same rows for every output."""
        return (rows,) * len(self.node.outputs)

    def give_rows(self, index: int, rows: Rows) -> None:
        """Have an input without rows repeated so that it holds ``rows``.

        Raises:
            RowRefusal: its axis has another length, or its rows differ from one another.
        """
        shape = self.shape(index)
        if rows.axis >= len(shape) or shape[rows.axis] != self.length(rows):
            self.refuse(f"its input {index} of shape {list(shape)} cannot be repeated along axis {rows.axis}")
        if self.batch != 1 and not self._rows_agree(index, rows):
            self.refuse(f"its input {index} holds values for each row of the batch of {self.batch}")
        self.sources[index] = Spread(index, rows)

    def _rows_agree(self, index: int, rows: Rows) -> bool:
        if rows in self.repeated.get(index, ()):
            return True
        array = self.constant(index)
        if array is None:
            return False
        split = split_axis(array, rows, self.batch)
        first = split.take([0], axis=rows.axis + 1)
        return bool(np.array_equal(split, np.broadcast_to(first, split.shape), equal_nan=array.dtype.kind in "fc"))


def split_axis(array: np.ndarray, rows: Rows, batch: int) -> np.ndarray:
    """``array`` with the axis of ``rows`` as three: outer, batch, inner."""
    shape = array.shape
    return array.reshape((*shape[: rows.axis], rows.outer, batch, rows.inner, *shape[rows.axis + 1 :]))


def reshaped_rows(ctx: NodeRows, rows: Rows, before: Sequence[int], after: Sequence[int]) -> Rows:
    """Where the rows lie after a Reshape, which keeps the order of the elements.

    With P elements before the batch in the nesting, an axis j of the new shape can hold the batch if prod(after[:j]) divides P
    and its length is outer * batch * inner with outer = P / prod(after[:j]). A batch of one may fit in several places, all of them
    sound: preferred is an axis that is the batch alone (the same axis first), then one where the batch comes first, then last.

    Raises:
        RowRefusal: no axis can hold the batch.
    """
    leading = prod(before[: rows.axis]) * rows.outer
    found: list[tuple[int, Rows]] = []
    for axis, dim in enumerate(after):
        passed = prod(after[:axis])
        if passed == 0 or leading % passed:
            break
        outer = leading // passed
        if dim and dim % (outer * ctx.batch) == 0:
            made = Rows(axis, outer, dim // (outer * ctx.batch))
            found.append((_liking(made, rows.axis, len(after)), made))
    if not found:
        ctx.refuse(f"reshaping {list(before)} to {list(after)} cuts through the batch of {ctx.batch} on axis {rows.axis}")
    return min(found, key=lambda item: item[0])[1]


def _liking(rows: Rows, axis: int, rank: int) -> int:
    if rows.is_plain:
        return 0 if rows.axis == axis else 1
    if rows.outer == 1 and rows.axis < rank - 1:
        return 2
    return 3 if rows.inner == 1 else 4


def repetitions(ctx: NodeRows) -> frozenset[Rows]:
    """Along what the output of a node without rows holds the same for every row: an Expand, or a Reshape of one."""
    node = ctx.node
    source = node.input(0)
    if node.op not in ("Expand", "Reshape") or source is None or not (source.tensor.is_static and node.output.tensor.is_static):
        return frozenset()
    before, after = source.shape, node.output.shape
    if node.op == "Expand":
        full = (1,) * (len(after) - len(before)) + before
        return frozenset(Rows(axis) for axis, dim in enumerate(after) if dim == ctx.batch != full[axis])
    found = set()
    for rows in ctx.repeated.get(0, ()):
        try:
            found.add(reshaped_rows(ctx, rows, before, after))
        except RowRefusal:
            continue
    return frozenset(found)


RowRule: TypeAlias = Callable[[NodeRows], "tuple[Rows | None, ...]"]
_RULES: dict[tuple[str, str], RowRule] = {}


def row_rule(*ops: str, domain: str = ONNX) -> Callable[[RowRule], RowRule]:
    """Register how operators carry rows on; asked only where an input has some."""

    def enter(rule: RowRule) -> RowRule:
        _RULES.update({(domain, op): rule for op in ops})
        return rule

    return enter


RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})


def carry(ctx: NodeRows) -> tuple[Rows | None, ...]:
    """The rows of a node's outputs.

    Raises:
        RowRefusal: no rule, or the rule finds no proof.
    """
    node = ctx.node
    if node.op in RANDOM:
        ctx.refuse("its output is random")
    if all(rows is None for rows in ctx.rows):
        return ctx.everywhere(None)
    rule = _RULES.get((node.domain, node.op))
    if rule is None:
        ctx.refuse("no rule says whether it keeps the rows of a batch apart")
    if not all(isinstance(value.type, TensorType) and value.type.is_static for value in (*node.inputs, *node.outputs) if value is not None):
        ctx.refuse("not all of its shapes are known; bind them first")
    return rule(ctx)
