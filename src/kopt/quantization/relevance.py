"""Which rows of what layers read have any influence on the outputs: padding that a mask hides has none, and says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kopt.calibration import Feed
from kopt.errors import KoptError
from kopt.hardware import Target
from kopt.ir.builder import Builder
from kopt.ir.graph import KOPT, Graph, Value
from kopt.ir.surgery import substitute
from kopt.ir.types import TensorType
from kopt.passes.quantize.plan import Plan, is_f32
from kopt.references import bound_graph
from kopt.specialize import Programs, Recipe

_SEED = 11
_LITERAL_BYTES = 1 << 14
"""Smaller constants are part of the program."""


@dataclass
class Relevance:
    """Rows that count, call by call.

    Attributes:
        rows: per feed, by value name: bool, of the value's shape without its last axis. Where all rows count there is no entry.
    """

    rows: list[dict[str, np.ndarray]] = field(default_factory=list)

    def kept(self, feed: int, value: Value, array: np.ndarray) -> np.ndarray:
        """The rows that count, (rows, last axis); the array itself where all do."""
        found = self._of(feed, value)
        return array if found is None or found.shape != array.shape[:-1] else array[found]

    def zeroed(self, feed: int, value: Value, array: np.ndarray) -> np.ndarray:
        """The array with zeros in the rows that do not count."""
        found = self._of(feed, value)
        return array if found is None or found.shape != array.shape[:-1] else np.where(found[..., None], array, np.zeros((), array.dtype))

    def share(self, feed: int, value: Value) -> float:
        """How many of the rows count, from 0 to 1."""
        found = self._of(feed, value)
        return 1.0 if found is None else float(found.mean())

    def _of(self, feed: int, value: Value) -> np.ndarray | None:
        return self.rows[feed].get(value.name) if feed < len(self.rows) else None


EVERYTHING = Relevance()
"""All rows count."""


def relevance(graph: Graph, found: Plan, feeds: Iterable[Feed]) -> Relevance:
    """Rows whose derivative is not zero, of the values that a plan puts into 8 bits.

    The outputs are weighed with random numbers and summed; a sample none of whose rows counts (its outputs are saturated)
    counts whole. Graphs that cannot be differentiated, or whose layers read nothing but one row per sample, have no entries.

    Args:
        graph: in f32.
        found: of the graph.
        feeds: whole calls.
    """
    values = [value for value in found.groups if (value.tensor.rank or 0) > 2 and is_f32(value)]
    products = any(layer.node.op != "Conv" and (layer.x.tensor.rank or 0) > 2 for layer in found.layers.values())
    if not products or any(True for node in graph.nodes for _ in node.subgraphs()):
        return Relevance()
    readers = {node.name for node in found.readers}
    programs: dict[tuple[tuple[str, tuple[int, ...]], ...], _Derivatives] = {}
    result = Relevance()
    try:
        for feed in feeds:
            key = tuple((name, array.shape) for name, array in feed.items())
            if key not in programs:
                programs[key] = _Derivatives(bound_graph(graph, dict(key)), [value.name for value in values], readers)
            result.rows.append(programs[key](feed))
    except (KoptError, TypeError, ValueError, NotImplementedError):  # whatever part of the model has no derivative
        return Relevance()
    return result


class _Derivatives:
    """A program from inputs to rows that count."""

    def __init__(self, graph: Graph, names: Sequence[str], readers: set[str]) -> None:
        made = {value.name: value for node in graph.nodes for value in node.outputs if value is not None}
        made |= {value.name: value for value in graph.inputs}
        self._values = [made[name] for name in names if name in made]
        builder = Builder.for_graph(graph)
        probes = [builder.input(f"{value.name}_probe", "f32", (*value.shape[:-1], 1)) for value in self._values]
        held = tuple(builder.input(value.name, value.tensor.dtype, value.tensor.shape) for value in graph.inputs)
        body = _body(graph, dict(zip(self._values, probes, strict=True)), readers, held)
        made_by = builder.emit_many(
            "Gradient", *probes, *held, num_outputs=len(probes), domain=KOPT, attrs={"body": body, "count": len(probes)}
        )
        weights = {value: graph.constants[value] for value in body.captures}
        whole = Graph("derivatives", (*probes, *held), made_by, tuple(builder.nodes), weights)
        self._zeros = [np.zeros(probe.shape, np.float32) for probe in probes]
        self._inputs = [value.name for value in graph.inputs]
        self._programs = Programs(whole, Recipe.of_preset("none"), Target.parse("cpu"))

    def __call__(self, feed: Feed) -> dict[str, np.ndarray]:
        """Rows that count, by value name."""
        results = self._programs([*self._zeros, *(feed[name] for name in self._inputs)])
        found = {value.name: _counting(np.asarray(array)[..., 0] != 0) for value, array in zip(self._values, results, strict=True)}
        return {name: rows for name, rows in found.items() if not rows.all()}


def _counting(rows: np.ndarray) -> np.ndarray:
    """Samples none of whose rows counts count whole."""
    silent = ~rows.reshape(len(rows), -1).any(1)
    rows[silent] = True
    return rows


def _body(graph: Graph, probes: Mapping[Value, Value], readers: set[str], held: Sequence[Value]) -> Graph:
    """From probes and inputs to one number, a probe added to what each layer reads."""
    builder = Builder.for_graph(graph)
    moved = {value: Value(value.name, value.type) for value in (*probes.values(), *held)}
    given = {value: moved[outer] for value, outer in zip(graph.inputs, held, strict=True)}
    added: dict[Value, Value] = {}
    for value in (one for one in graph.inputs if one in probes):
        added[value] = builder.emit("Add", given[value], moved[probes[value]], hint=f"{value.name}_probed")
    for node in graph.nodes:
        builder.nodes.append(substitute(node, (given | added) if node.name in readers else given))
        for value in filter(None, node.outputs):
            if value in probes:
                added[value] = builder.emit("Add", value, moved[probes[value]], hint=f"{value.name}_probed")
    total = _weighed(graph, builder, given)
    read = dict.fromkeys(value for node in builder.nodes for value in node.inputs if value is not None and value in graph.constants)
    captures = tuple(value for value in read if graph.constants[value].nbytes > _LITERAL_BYTES)
    literals = {value: graph.constants[value] for value in read if value not in captures}
    inputs = tuple(moved[value] for value in (*probes.values(), *held))
    return Graph("outputs", inputs, (total,), tuple(builder.nodes), {**builder.constants, **literals}, captures=captures)


def _weighed(graph: Graph, builder: Builder, given: Mapping[Value, Value]) -> Value:
    """The sum of the float outputs times random numbers."""
    rng = np.random.default_rng(_SEED)
    total = builder.constant(np.zeros((), np.float32), "none")
    for value in graph.outputs:
        if not isinstance(value.type, TensorType) or not is_f32(value) or value in graph.constants:
            continue
        factors = builder.constant(rng.standard_normal(value.shape).astype(np.float32), "factors")
        axes = builder.constant(np.arange(len(value.shape)), "axes")
        one = builder.emit("ReduceSum", builder.emit("Mul", given.get(value, value), factors), axes, attrs={"keepdims": 0})
        total = builder.emit("Add", total, one)
    return total
