"""Dependency groups: the units of channels that may be cut, and everything that each cut shrinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kopt.ir.graph import Graph, Node, Value
from kopt.passes.prune import axis_moves, axis_rules  # noqa: F401 (their rules register themselves)
from kopt.passes.prune.axes import KEPT, UnitSets, trace


@dataclass(frozen=True, eq=False)
class Place:
    """An axis of a constant on which units lie.

    Attributes:
        value: the constant.
        axis: of the constant.
        units: the unit of each coordinate, i64.
        consumer: the node that sums over this axis; None where the axis makes channels or scales them.
    """

    value: Value
    axis: int
    units: np.ndarray
    consumer: Node | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Units that compete: channels of one width.

    Attributes:
        units: i64, in the order of their first coordinate.
        span: coordinates that each unit has on the axis that makes it, such as the length of a head.
        places: where they lie in constants.
        name: of the first node that makes them.
    """

    units: np.ndarray
    span: int
    places: tuple[Place, ...] = field(repr=False)
    name: str = ""


@dataclass(frozen=True)
class Dependencies:
    """What can be cut from a graph.

    Attributes:
        graph: the graph.
        groups: in topological order.
        axes: the units of every tensor's axes; unit 0, and None, is what must stay.
    """

    graph: Graph
    groups: tuple[Group, ...]
    axes: Mapping[Value, tuple[np.ndarray | None, ...]] = field(repr=False)


def dependencies(graph: Graph) -> Dependencies:
    """The groups of a graph, from one walk over its nodes (see ``kopt.passes.prune.axes``)."""
    found = trace(graph)
    competing = UnitSets()
    competing.fresh(len(found.sets))
    sources = [found.sets.roots(units) for units in found.sources]
    for source in sources:
        free = [int(unit) for unit in source if unit != KEPT]
        for unit in free[1:]:
            competing.join(free[0], unit)
    axes = {value: tuple(_resolved(found.sets, each) for each in units) for value, units in found.units.items()}
    members: dict[int, dict[int, int]] = {}
    for source in sources:
        counts: dict[int, int] = {}
        for unit in source.tolist():
            counts[unit] = counts.get(unit, 0) + 1
        for unit, count in counts.items():
            if unit != KEPT:
                held = members.setdefault(competing.find(unit), {})
                held[unit] = max(held.get(unit, 0), count)
    consumers = {(node.inputs[index], axis): node for node, index, axis in found.consumers}
    places = _places(graph, axes, consumers)
    groups = [_group(graph, units, places) for units in members.values() if len(units) > 1]
    return Dependencies(graph, tuple(groups), axes)


def _resolved(sets: UnitSets, units: np.ndarray | None) -> np.ndarray | None:
    """Units by what stands for their sets; None where none may be cut."""
    if units is None:
        return None
    roots = sets.roots(units)
    return roots if roots.any() else None


def _places(
    graph: Graph, axes: Mapping[Value, tuple[np.ndarray | None, ...]], consumers: Mapping[tuple[Value | None, int], Node]
) -> dict[int, dict[tuple[Value, int], Place]]:
    """By unit, the axes of constants it lies on."""
    found: dict[int, dict[tuple[Value, int], Place]] = {}
    for value in graph.constants:
        for axis, units in enumerate(axes.get(value, ())):
            if units is not None:
                place = Place(value, axis, units, consumers.get((value, axis)))
                for unit in np.unique(units[units != KEPT]).tolist():
                    found.setdefault(unit, {})[value, axis] = place
    return found


def _group(graph: Graph, units: Mapping[int, int], places: Mapping[int, Mapping[tuple[Value, int], Place]]) -> Group:
    held = {key: place for unit in units for key, place in places.get(unit, {}).items()}
    values = {value for value, _ in held}
    makers = (node for node in graph.nodes if any(value in values for value in node.inputs))
    first = next((node.name for node in makers), "")
    return Group(np.array(list(units), np.int64), max(units.values()), tuple(held.values()), first)
