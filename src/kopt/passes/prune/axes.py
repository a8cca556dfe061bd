"""Units of channels: which coordinates of which axes must be cut together.

Every axis of every tensor holds one unit per coordinate. What ties two coordinates together (a residual addition, a depthwise
convolution, a head of attention) makes their units one. Unit 0 holds whatever must stay: the axes of inputs and outputs of the graph, and
all that passes through an operator whose result would change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import Dim, TensorType

Units: TypeAlias = "np.ndarray | None"
"""i64, one unit per coordinate of an axis; None where all must stay."""

KEPT = 0


class UnitSets:
    """Disjoint sets of units; the set of unit 0 is what must stay."""

    def __init__(self) -> None:
        self._parents = [KEPT]

    def __len__(self) -> int:
        return len(self._parents)

    def fresh(self, count: int) -> np.ndarray:
        """New units, each a set of its own."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def find(self, unit: int) -> int:
        """The unit that stands for a set."""
        parents = self._parents
        while parents[unit] != unit:
            parents[unit] = parents[parents[unit]]
            unit = parents[unit]
        return unit

    def join(self, first: int, second: int) -> None:
        """Make two sets one; the lower number stands for both, so that unit 0 always stands for its set."""
        first, second = sorted((self.find(first), self.find(second)))
        self._parents[second] = first

    def roots(self, units: np.ndarray) -> np.ndarray:
        """What stands for each unit's set."""
        return np.array([self.find(int(unit)) for unit in units.ravel()], np.int64).reshape(units.shape)


class Axes:
    """The units of every axis of a graph's tensors, filled node by node."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.sets = UnitSets()
        self.units: dict[Value, list[Units]] = {}
        self.sources: list[np.ndarray] = []  # axes of weights along which they make channels
        self.consumers: list[tuple[Node, int, int]] = []  # (node, input, axis): axes of weights that are summed over
        self._weights: set[Value] = set()  # what constants alone decide

    def of(self, value: Value | None) -> list[Units]:
        """The units of each axis; those of a constant are made when first asked for."""
        if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
            return []
        if value not in self.units:
            if value in self.graph.constants and (value.type.dtype.is_float or value.type.dtype.num_bits <= 8):
                self.units[value] = [self.sets.fresh(dim) if isinstance(dim, int) and dim > 1 else None for dim in value.type.shape]
            else:
                self.units[value] = [None] * len(value.type.shape)
        return self.units[value]

    def is_weight(self, value: Value | None) -> bool:
        """Whether constants alone decide a value."""
        return value is not None and (value in self.graph.constants or value in self._weights)

    def made(self, node: Node) -> None:
        """Note what constants alone decide among a node's outputs."""
        if all(value is None or self.is_weight(value) for value in node.inputs):
            self._weights.update(value for value in node.outputs if value is not None)

    def keep(self, units: Units) -> None:
        """Nothing on this axis may be cut."""
        for unit in () if units is None else units:
            self.sets.join(KEPT, int(unit))

    def keep_value(self, value: Value | None) -> None:
        """Nothing of this tensor may be cut."""
        for units in self.of(value):
            self.keep(units)

    def tie(self, first: Units, second: Units) -> Units:
        """The units of two axes that are one; of lengths that differ, neither may be cut."""
        if first is None or second is None or len(first) != len(second):
            self.keep(first)
            self.keep(second)
            return None
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self.sets.join(one, other)
        return first

    def merge(self, blocks: np.ndarray) -> None:
        """Make the units of every row of ``blocks`` one."""
        for row in blocks:
            for unit in row[1:].tolist():
                self.sets.join(int(row[0]), unit)


class NodeAxes:
    """What a rule sees of one node."""

    def __init__(self, axes: Axes, node: Node) -> None:
        self.axes = axes
        self.node = node

    def of(self, index: int) -> list[Units]:
        """The units of the axes of an input."""
        return self.axes.of(self.node.input(index))

    def shape(self, index: int) -> tuple[Dim, ...]:
        """The shape of an input; empty where there is none."""
        return _shape(self.node.input(index))

    def out_shape(self, index: int = 0) -> tuple[Dim, ...]:
        """The shape of an output."""
        return _shape(self.node.outputs[index])

    def constant(self, index: int) -> np.ndarray | None:
        """The array of an input that is known."""
        return self.axes.graph.constant(self.node.input(index))

    def is_weight(self, index: int) -> bool:
        """Whether constants alone decide an input."""
        return self.axes.is_weight(self.node.input(index))

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.node.attrs.get(name, default)

    def axis(self, name: str = "axis", default: int = 0, index: int = 0) -> int:
        """An axis of an input, counted from the front."""
        return int(self.attr(name, default)) % max(len(self.shape(index)), 1)

    def keep(self, *indices: int) -> None:
        """Nothing of these inputs may be cut."""
        for index in indices:
            self.axes.keep_value(self.node.input(index))

    def source(self, units: Units) -> None:
        """This axis makes channels: whoever prunes decides over its units together."""
        if units is not None:
            self.axes.sources.append(units)

    def consumes(self, index: int, axis: int) -> None:
        """The node sums over this axis of a weight."""
        self.axes.consumers.append((self.node, index, axis))


AxisRule: TypeAlias = Callable[[NodeAxes], "Sequence[list[Units]] | None"]
_RULES: dict[tuple[str, str], AxisRule] = {}


def axis_rule(*ops: str, domain: str = "") -> Callable[[AxisRule], AxisRule]:
    """Register how operators tie the axes of their inputs and outputs.

    The rule returns the units of every output's axes, or None: then nothing of the inputs may be cut.
    """

    def register(rule: AxisRule) -> AxisRule:
        for op in ops:
            _RULES[domain, op] = rule
        return rule

    return register


def trace(graph: Graph) -> Axes:
    """The units of every axis of the graph's tensors."""
    axes = Axes(graph)
    for node in graph.nodes:
        rule = _RULES.get((node.domain, node.op))
        axes.made(node)
        found = None if rule is None or any(True for _ in node.subgraphs()) else rule(NodeAxes(axes, node))
        if found is None:
            _keep_all(axes, node)
            continue
        for value, units in zip(node.outputs, found, strict=False):
            if value is not None:
                axes.units[value] = _usable(axes, value, units)
    for value in graph.outputs:
        axes.keep_value(value)
    return axes


def _usable(axes: Axes, value: Value, units: Iterable[Units]) -> list[Units]:
    """Units that fit the value's shape; an axis of one coordinate, which others may broadcast, is never cut."""
    shape, found = _shape(value), list(units)
    if len(shape) != len(found):
        for each in found:
            axes.keep(each)
        return [None] * len(shape)
    for index, (dim, each) in enumerate(zip(shape, found, strict=True)):
        if each is not None and (dim == 1 or dim != len(each)):
            axes.keep(each)
            found[index] = None
    return found


def _keep_all(axes: Axes, node: Node) -> None:
    for value in (*node.inputs, *(captured for body in node.subgraphs() for captured in body.captures)):
        axes.keep_value(value)


def _shape(value: Value | None) -> tuple[Dim, ...]:
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return ()
    return value.type.shape
