"""How much each unit matters, how many remain, and weights that take over for those that go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from kopt.errors import UsageError
from kopt.ir.graph import Graph, Value
from kopt.passes.prune.axes import KEPT
from kopt.passes.prune.groups import Dependencies, Group, Place

VECTOR_WIDTHS = (16, 8, 4, 2)
"""Lanes that kept channels are rounded to, the widest that comes close to what was asked for."""


def kept_count(num_units: int, ratio: float, span: int = 1) -> int:
    """How many of a group's units remain: near ``(1 - ratio) * num_units``, a multiple of a vector width where one is close.

    Args:
        num_units: units of the group.
        ratio: share that goes, 0 to 1.
        span: coordinates per unit; whole heads are not rounded.
    """
    wanted = (1 - ratio) * num_units
    for width in VECTOR_WIDTHS if span == 1 else ():
        rounded = width * max(1, round(wanted / width))
        if abs(rounded - wanted) <= num_units / 16 and rounded <= num_units:
            return int(rounded)
    return min(num_units, max(1, round(wanted)))


def weight_scores(graph: Graph, group: Group) -> np.ndarray:
    """The norm of everything a unit has in weights, f64 per unit of the group: each weight's share of its own norm, summed."""
    score = np.zeros(len(group.units))
    for place in group.places:
        array = np.asarray(graph.constants[place.value].array(), np.float64)
        if array.ndim < 2:
            continue  # biases and scales say little about what a channel carries
        energy = np.square(np.moveaxis(array, place.axis, 0).reshape(len(place.units), -1)).sum(1)
        score += _by_unit(group, place, energy / max(energy.sum(), 1e-30))
    return score


def _by_unit(group: Group, place: Place, values: np.ndarray) -> np.ndarray:
    """Sums of values per coordinate over the units of a group."""
    order = np.argsort(group.units)
    places = np.searchsorted(group.units[order], place.units)
    found = np.minimum(places, len(order) - 1)
    belongs = (group.units[order][found] == place.units) & (place.units != KEPT)
    sums = np.zeros(len(order))
    np.add.at(sums, found[belongs], values[belongs])
    result = np.zeros(len(order))
    result[order] = sums
    return result


def consumed_input(place: Place) -> Value | None:
    """What the node that sums over a place multiplies it with; None where that is not known."""
    node = place.consumer
    if node is None:
        return None
    index = next((index for index, value in enumerate(node.inputs[:2]) if value is place.value), 1)
    return node.inputs[1 - index]


def consumed_axis(place: Place) -> int:
    """The axis of ``consumed_input`` that is summed over."""
    node, value = place.consumer, consumed_input(place)
    rank = len(value.tensor.shape or ()) if value is not None else 0
    if node is None or node.op in ("Conv", "FusedConv", "ConvTranspose"):
        return 1
    if value is node.inputs[0]:
        return rank - 2 if node.attrs.get("transA") else rank - 1
    return rank - 1 if node.attrs.get("transB") else rank - 2


def reconstruction_scores(graph: Graph, group: Group, grams: Mapping[Place, np.ndarray]) -> np.ndarray:
    """What the outputs of all consumers lose when a unit goes and the others make up for it, f64 per unit.

    With G the Gram matrix of a consumer's inputs and w a column of its weight, that is ``|w|^2 / (G^-1)[u, u]``, as a share of the
    output's energy.

    Args:
        graph: that of the group.
        group: what competes.
        grams: by place with a consumer, ``E[x x^T]`` of its inputs, (C, C) f64.
    """
    score = np.zeros(len(group.units))
    for place in group.places:
        if place not in grams:
            continue
        gram = grams[place]
        columns = _columns(graph, place)
        inverse = np.linalg.inv(gram + np.eye(len(gram)) * ridge_of(gram))
        energy = np.einsum("kc,cd,kd->", columns, gram, columns)
        score += _by_unit(group, place, np.square(columns).sum(0) / np.diag(inverse) / max(energy, 1e-30))
    return score


def ridge_of(gram: np.ndarray) -> float:
    """The regularization of a Gram matrix: a thousandth of its mean energy."""
    return 1e-3 * float(np.trace(gram)) / max(len(gram), 1) + 1e-12


def _columns(graph: Graph, place: Place) -> np.ndarray:
    """A weight as (everything else, summed axis), f64."""
    array = np.asarray(graph.constants[place.value].array(), np.float64)
    return np.moveaxis(array, place.axis, -1).reshape(-1, array.shape[place.axis])


def compensated(array: np.ndarray, axis: int, kept: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """A weight whose kept columns stand in for the others: W' = W B with x ~ B x[kept] in the least squares of the calibration inputs.

    Args:
        array: the whole weight.
        axis: the one that is summed over.
        kept: coordinates that remain.
        gram: E[x x^T] of all inputs of that axis.
    """
    small = gram[np.ix_(kept, kept)]
    spread = np.linalg.solve(small + np.eye(len(kept)) * ridge_of(small), gram[kept])  # (kept, all): x ~ spread^T x[kept]
    moved = np.moveaxis(np.asarray(array, np.float64), axis, -1) @ spread.T
    result: np.ndarray = np.moveaxis(moved, -1, axis).astype(array.dtype)
    return result


def selected(found: Dependencies, scores: Mapping[int, np.ndarray], ratio: float) -> set[int]:
    """The units that go: of every group the least important ones.

    Args:
        found: the groups.
        scores: by position of the group.
        ratio: share of each group.

    Raises:
        UsageError: not a share.
    """
    if not 0 <= ratio < 1:
        raise UsageError(f"a ratio of {ratio} is no share of channels", next_step="give a number from 0 to below 1, such as 0.5")
    return set(_lowest(found, scores, ratio))


def _lowest(found: Dependencies, scores: Mapping[int, np.ndarray], ratio: float) -> Iterable[int]:
    for index, group in enumerate(found.groups):
        count = len(group.units) - kept_count(len(group.units), ratio, group.span)
        yield from group.units[np.argsort(scores[index], kind="stable")[:count]].tolist()
