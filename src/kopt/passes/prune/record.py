"""Which coordinates of the original a pruned graph still has, carried in its metadata so that recovery can compare the two."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import numpy as np

from kopt.errors import InvalidModelError
from kopt.ir.graph import Graph
from kopt.passes.prune.cut import kept_coordinates
from kopt.passes.prune.groups import Dependencies

KEY = "kopt.kept"


def recorded(graph: Graph, found: Dependencies, removed: Collection[int]) -> Graph:
    """A cut graph that says in its metadata what remains of every value that a node makes.

    Args:
        graph: what ``cut`` returned.
        found: the groups it was cut by.
        removed: the units that went.
    """
    earlier = kept_axes(found.graph)
    sets: dict[tuple[int, ...], int] = {}
    values: dict[str, dict[str, int]] = {}
    for node in found.graph.nodes:
        for value in node.outputs:
            if value is None:
                continue
            axes = dict(earlier.get(value.name, {}))
            for axis, units in enumerate(found.axes.get(value, ())):
                kept = kept_coordinates(units, removed)
                if kept is not None:
                    axes[axis] = axes[axis][kept] if axis in axes else kept
            if axes:
                values[value.name] = {str(axis): sets.setdefault(tuple(kept.tolist()), len(sets)) for axis, kept in axes.items()}
    text = json.dumps({"sets": [list(one) for one in sets], "values": values}, separators=(",", ":"))
    return graph.replace(metadata={**graph.metadata, KEY: text})


def kept_axes(graph: Graph) -> Mapping[str, Mapping[int, np.ndarray]]:
    """By value and axis the coordinates that a pruned graph kept of the original; empty for other graphs.

    Raises:
        InvalidModelError: metadata of that name that pruning did not write.
    """
    if KEY not in graph.metadata:
        return {}
    try:
        content = json.loads(graph.metadata[KEY])
        sets = [np.array(one, np.int64) for one in content["sets"]]
        return {name: {int(axis): sets[index] for axis, index in axes.items()} for name, axes in content["values"].items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise InvalidModelError(
            f"the metadata '{KEY}' is not what pruning writes", where=graph.name, next_step="remove it, or prune the original again"
        ) from None
