"""Another batch for a model exported with a fixed one, where the rows of the batch are proven independent.

``row_independence`` walks the graph once with the rules of ``kopt.passes.rebatch_rules`` and ``rebatch_shape_rules``; ``Rebatch`` writes
the graph anew from the same walk. Numbers are checked too, where the context can run graphs: stacked runs equal single ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from kopt.errors import Location, PassError, RowDependenceError, UsageError
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value, node_reads
from kopt.ir.spec import node_constants
from kopt.ir.surgery import all_names
from kopt.ir.types import Dim, TensorType
from kopt.passes import rebatch_rules, rebatch_shape_rules  # noqa: F401 (their rules register themselves)
from kopt.passes.base import PassContext, register
from kopt.passes.bind_shapes import BindShapes
from kopt.passes.rows import RANDOM, Fixed, NodeRows, Original, RowRefusal, Rows, Source, carry, repetitions, split_axis


@dataclass(frozen=True)
class RowIndependence:
    """Whether row n of every output depends on row n of the inputs alone; true as a condition where that is proven.

    Attributes:
        batch: size of the batch in the graph.
        rows: where the batch lies in each value that has it, inputs and outputs of the graph among them.
        reason: why there is no proof; empty where there is one.
        where: the node without proof.
    """

    batch: int
    rows: Mapping[Value, Rows] = field(repr=False)
    reason: str = ""
    where: Location | str = ""
    forms: Mapping[Node, NodeRows] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return not self.reason

    def axes(self, graph: Graph) -> tuple[dict[str, int], dict[str, int]] | None:
        """The batch axis of every input and output that has one, by name: what is padded and cut.

        None without a proof, or where an output's axis holds more than the batch.
        """
        held = [(value, self.rows[value]) for value in (*graph.inputs, *graph.outputs) if value in self.rows]
        if not self or not all(rows.is_plain for _, rows in held):
            return None
        inputs, outputs = set(graph.inputs), set(graph.outputs)
        return (
            {value.name: rows.axis for value, rows in held if value in inputs},
            {value.name: rows.axis for value, rows in held if value in outputs},
        )


def row_independence(graph: Graph, inputs: Sequence[str] = ()) -> RowIndependence:
    """Prove that the rows of a static graph do not mix, so that a smaller batch may be padded to this one and its rows cut out again.

    The batch is axis 0 of the inputs named in ``inputs``; by default of all inputs as long there as the first that has axes. Other inputs
    are shared by the rows.
    """
    batched = _batched_inputs(graph, inputs)
    if not batched or not batched[0].tensor.is_static:
        return RowIndependence(0, {}, "its inputs have no batch axis of known length", graph.name)
    batch = batched[0].shape[0]
    if batch == 0:
        return RowIndependence(0, {}, "its batch is empty", graph.name)
    rows: dict[Value, Rows] = {value: Rows(0) for value in batched}
    forms: dict[Node, NodeRows] = {}
    repeated: dict[Value, frozenset[Rows]] = {}
    for node in graph.nodes:
        try:
            form = _carry(graph, node, batch, rows, repeated)
        except RowRefusal as refusal:
            return RowIndependence(batch, rows, f"{node.qualified_op}: {refusal.reason}", _where(graph, node))
        if form is not None:
            forms[node] = form
    return RowIndependence(batch, rows, forms=forms)


def _where(graph: Graph, node: Node) -> Location:
    return node.loc if node.loc.nodes else Location(graph.name, (node.name,))


def _batched_inputs(graph: Graph, names: Sequence[str]) -> list[Value]:
    tensors = [value for value in graph.inputs if isinstance(value.type, TensorType) and value.type.shape]
    if names:
        return [value for value in tensors if value.name in names]
    return [value for value in tensors if _leading(value) == _leading(tensors[0])]


def _leading(value: Value) -> Dim:
    shape = value.tensor.shape
    return shape[0] if shape else 0


def _carry(graph: Graph, node: Node, batch: int, rows: dict[Value, Rows], repeated: dict[Value, frozenset[Rows]]) -> NodeRows | None:
    """Enter the rows of the node's outputs; the node's new form, or None where it has nothing to do with the batch."""
    held = [None if value is None else rows.get(value) for value in node_reads(node)]
    if any(item is not None for item in held[len(node.inputs) :]):
        raise RowRefusal("a body reads values that differ from row to row")
    if any(inner.op in RANDOM for body in node.subgraphs() for _, inner in body.walk()):
        raise RowRefusal("a body makes random values")
    constants: Mapping[int, np.ndarray] = {}
    if any(item is not None for item in held):
        constants = _constants(graph, node, batch)
    same = {index: repeated[value] for index, value in enumerate(node.inputs) if value in repeated}
    form = NodeRows(node, batch, held[: len(node.inputs)], constants, same)
    outputs = carry(form)
    if batch != 1 and all(item is None for item in held) and (along := repetitions(form)):
        repeated[node.output] = along
    rows.update((value, found) for value, found in zip(node.outputs, outputs, strict=False) if value is not None and found is not None)
    return form if any(found is not None for found in form.rows) else None


def _constants(graph: Graph, node: Node, batch: int) -> dict[int, np.ndarray]:
    """Small constants, and large ones where a batch above one asks whether their rows agree, or they are indices."""
    found = node_constants(graph, node)
    if batch == 1 and node.op != "GatherND":
        return found
    return {index: array for index, value in enumerate(node.inputs) if (array := graph.constant(value)) is not None}


@register
@dataclass(frozen=True)
class Rebatch:
    """Give a graph with a fixed batch another one: x[1, 3, 224, 224]  ==>  x[N, 3, 224, 224].

    Attributes:
        batch: the new batch: a number, or the name of a symbolic dimension.
        inputs: the inputs whose axis 0 is the batch; by default all that are as long there as the first one.
        verify: whether stacked runs are compared with single ones, where the context can run graphs.
    """

    name: ClassVar[str] = "rebatch"
    batch: int | str = "N"
    inputs: tuple[str, ...] = ()
    verify: bool = True

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with the new batch; a batch that is symbolic already is bound, or kept.

        Raises:
            UsageError: no input has a batch axis, or the batch is less than one.
            RowDependenceError: a node whose rows are not proven independent; the message names it.
            PassError: the numbers contradict the proof.
        """
        known = [value.name for value in graph.inputs]
        for name in self.inputs:
            if name not in known:
                raise UsageError(f"the model has no input '{name}'", where=graph.name, next_step=f"its inputs are: {', '.join(known)}")
        batched = _batched_inputs(graph, self.inputs)
        if not batched or (isinstance(self.batch, int) and self.batch < 1):
            raise UsageError(
                f"'{graph.name}' cannot get batch {self.batch}", next_step="name inputs with a batch on axis 0, and at least one row"
            )
        old = _leading(batched[0])
        if isinstance(old, str):
            return graph if isinstance(self.batch, str) else BindShapes(dims={old: self.batch}, partial=True).run(graph, ctx)
        if old == self.batch:
            return graph
        proof = row_independence(graph, self.inputs)
        _require(graph, proof)
        if self.verify and ctx.evaluate is not None:
            _check_numbers(graph, proof, ctx)
        result = _Writer(graph, proof, self.batch).write()
        ctx.applied("rebatch", len(proof.forms))
        return result


_NEXT = "compile the model at the batch it was exported with, or export it with a dynamic batch axis"


def _require(graph: Graph, proof: RowIndependence) -> None:
    if not proof:
        raise RowDependenceError(f"the batch of {proof.batch} cannot be changed: {proof.reason}", where=proof.where, next_step=_NEXT)
    for value in graph.outputs:
        rows = proof.rows.get(value)
        if rows is None or rows.axis != 0 or rows.outer != 1:
            reason = "does not depend on the batch" if rows is None else f"has the batch on axis {rows.axis}, not in front"
            raise RowDependenceError(f"output '{value.name}' {reason}", where=graph.name, next_step=_NEXT)


class _Writer:
    """Writes the graph of a proof for another batch."""

    def __init__(self, graph: Graph, proof: RowIndependence, batch: int | str) -> None:
        self.graph = graph
        self.proof = proof
        self.batch = batch
        self.builder = Builder(all_names(graph))
        self.builder.constants.update(graph.constants)
        self.values: dict[Value, Value] = {}
        self._spread: dict[tuple[Value, Rows], Value] = {}
        self._length: Value | None = None
        self._shapes: dict[tuple[int, int], Value] = {}

    def write(self) -> Graph:
        """The new graph; values keep their names."""
        inputs = tuple(self.value(value) for value in self.graph.inputs)
        for node in self.graph.nodes:
            form = self.proof.forms.get(node)
            self.builder.nodes.append(node if form is None else self._node(node, form))
        outputs = tuple(self.value(value) for value in self.graph.outputs)
        constants = self.builder.constants
        read = {value for node in self.builder.nodes for value in node_reads(node)} | set(outputs)
        kept = {value: held for value, held in constants.items() if value in read}
        return self.graph.replace(inputs=inputs, outputs=outputs, nodes=tuple(self.builder.nodes), constants=kept)

    def value(self, value: Value) -> Value:
        """The value of the new graph in place of ``value``."""
        rows = self.proof.rows.get(value)
        if rows is None:
            return value
        if value not in self.values:
            self.values[value] = Value(value.name, self._type(value.tensor, rows))
        return self.values[value]

    def _type(self, type_: TensorType, rows: Rows) -> TensorType:
        factor = rows.outer * rows.inner
        dim: Dim = self.batch * factor if isinstance(self.batch, int) else self.batch if factor == 1 else f"{factor}*{self.batch}"
        shape = type_.shape or ()
        return TensorType(type_.dtype, (*shape[: rows.axis], dim, *shape[rows.axis + 1 :]))

    def _node(self, node: Node, form: NodeRows) -> Node:
        self.builder.loc = node.loc
        inputs = tuple(self._source(node, source) for source in form.sources)
        outputs = tuple(None if value is None else self.value(value) for value in node.outputs)
        attrs = form.attrs if form.op != node.op else {**node.attrs, **form.attrs}
        return node.replace(op=form.op, inputs=inputs, outputs=outputs, attrs=attrs)

    def _source(self, node: Node, source: Source) -> Value | None:
        if source is None:
            return None
        if isinstance(source, Fixed):
            return self.builder.constant(source.array, "batched")
        value = node.inputs[source.index]
        if value is None or isinstance(source, Original):
            return None if value is None else self.value(value)
        if (value, source.rows) not in self._spread:
            self._spread[value, source.rows] = self._repeat(value, source.rows)
        return self._spread[value, source.rows]

    def _repeat(self, value: Value, rows: Rows) -> Value:
        """A constant c  ==>  Expand(c) over the batch, or Reshape(Expand(Reshape(c))) where its axis holds more than the batch."""
        shape = value.shape
        split = (*shape[: rows.axis], rows.outer, 1, rows.inner, *shape[rows.axis + 1 :])
        if self.proof.batch != 1:
            value = self._first_row(value, rows)
        type_ = self._type(TensorType(value.tensor.dtype, shape), rows)
        if rows.is_plain:
            return self._emit("Expand", value, self._batch_shape(rows.axis, len(shape)), type_)
        axis, flat = rows.axis + 1, [*shape]
        flat[rows.axis] = -1
        if value.shape != split:
            value = self._emit("Reshape", value, self._ints(split), TensorType(value.tensor.dtype, split))
        wide = TensorType(value.tensor.dtype, (*split[:axis], self.batch, *split[axis + 1 :]))
        value = self._emit("Expand", value, self._batch_shape(axis, len(split)), wide)
        return self._emit("Reshape", value, self._ints(flat), type_)

    def _first_row(self, value: Value, rows: Rows) -> Value:
        """What a value that repeats itself holds for one row, the axis of ``rows`` as in a batch of one."""
        shape, axis = value.shape, rows.axis
        one = (*shape[:axis], rows.outer * rows.inner, *shape[axis + 1 :])
        array = self.graph.constant(value)
        if array is not None:
            return self.builder.constant(split_axis(array, rows, self.proof.batch).take([0], axis=axis + 1).reshape(one), value.name)
        split = (*shape[:axis], rows.outer, self.proof.batch, rows.inner, *shape[axis + 1 :])
        value = self.builder.emit("Reshape", value, self._ints(split))
        value = self.builder.emit("Slice", value, self._ints([0]), self._ints([1]), self._ints([axis + 1]))
        return self.builder.emit("Reshape", value, self._ints(one))

    def _emit(self, op: str, value: Value, shape: Value, type_: TensorType) -> Value:
        return self.builder.emit_many(op, value, shape, hint=f"{value.name}.rows", types=[type_])[0]

    def _ints(self, values: Sequence[int]) -> Value:
        return self.builder.constant(np.asarray(values, np.int64), "shape")

    def _batch_shape(self, axis: int, rank: int) -> Value:
        """[1, ..., batch, ..., 1] of ``rank`` elements, read off an input where the batch is symbolic."""
        if (axis, rank) not in self._shapes:
            self._shapes[axis, rank] = self._make_batch_shape(axis, rank)
        return self._shapes[axis, rank]

    def _make_batch_shape(self, axis: int, rank: int) -> Value:
        if isinstance(self.batch, int):
            return self._ints([self.batch if index == axis else 1 for index in range(rank)])
        if self._length is None:
            source = next(value for value in self.graph.inputs if value in self.proof.rows)
            self._length = self.builder.emit("Shape", self.value(source), attrs={"start": 0, "end": 1}, hint="batch")
        if rank == 1:
            return self._length
        parts = [self._ints([1] * count) for count in (axis, rank - axis - 1)]
        around = [part for part in (parts[0], self._length, parts[1]) if part.shape != (0,)]
        return self.builder.emit("Concat", *around, attrs={"axis": 0}, hint="shape")


def _check_numbers(graph: Graph, proof: RowIndependence, ctx: PassContext) -> None:
    """Stacked runs equal single ones, on two random batches.

    Raises:
        PassError: they differ.
    """
    if ctx.evaluate is None:
        return
    rng = np.random.default_rng(0)
    first, second = ([_random(value, rng) for value in graph.inputs] for _ in range(2))
    shared = [value not in proof.rows for value in graph.inputs]
    second = [one if same else other for one, other, same in zip(first, second, shared, strict=True)]
    stacked = [one if same else np.concatenate([one, other]) for one, other, same in zip(first, second, shared, strict=True)]
    singles = [ctx.evaluate(graph, arrays) for arrays in (first, second)]
    together = ctx.evaluate(_Writer(graph, proof, 2 * proof.batch).write(), stacked)
    for value, one, other, both in zip(graph.outputs, *singles, together, strict=True):
        wanted = np.concatenate([one, other])
        tolerance = 2e-2 if wanted.dtype.itemsize < 4 and wanted.dtype.kind not in "iub" else 1e-3
        scale = float(np.nanmax(np.abs(wanted.astype(np.float64)), initial=0.0)) or 1.0
        if wanted.shape != both.shape or not np.allclose(
            both.astype(np.float64), wanted.astype(np.float64), tolerance, tolerance * scale, True
        ):
            raise PassError(
                f"rows of output '{value.name}' differ between a stacked and single runs", where=graph.name, next_step="report this model"
            )


def _random(value: Value, rng: np.random.Generator) -> np.ndarray:
    """Normal floats; zeros and ones for integers, which are valid indices, masks and lengths nearly everywhere."""
    dtype = value.tensor.dtype
    if dtype.is_float:
        return np.asarray(rng.standard_normal(value.shape)).astype(dtype.numpy)
    return np.asarray(rng.integers(0, 2, value.shape)).astype(dtype.numpy)
