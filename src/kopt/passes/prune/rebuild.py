"""Weights of the consumers of cut channels, solved for so that the remaining channels stand in for those that went."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from kopt.ir.constant import Constant
from kopt.ir.graph import Graph
from kopt.passes.prune.cut import kept_coordinates
from kopt.passes.prune.groups import Dependencies, Place
from kopt.passes.prune.score import compensated


def compensate(smaller: Graph, found: Dependencies, removed: Collection[int], grams: Mapping[Place, np.ndarray]) -> Graph:
    """A cut graph whose consumers' weights are rebuilt: W'  ==>  W B with x ~ B x[kept].

    Args:
        smaller: what ``cut`` returned.
        found: the groups it was cut by.
        removed: the units that went.
        grams: E[x x^T] of what a place with a consumer sums over, measured on the original.
    """
    held = {value.name: value for value in smaller.constants}
    constants = dict(smaller.constants)
    for place, gram in grams.items():
        kept = kept_coordinates(place.units, removed)
        value = held.get(place.value.name)
        if kept is None or value is None:
            continue
        array = compensated(found.graph.constants[place.value].array(), place.axis, kept, gram)
        for axis, units in enumerate(found.axes[place.value]):
            rest = kept_coordinates(units, removed)
            if axis != place.axis and rest is not None:
                array = np.take(array, rest, axis)
        constants[value] = Constant.of(np.ascontiguousarray(array))
    return smaller.replace(constants=constants)
