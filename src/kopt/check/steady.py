"""Whether an artifact reached a steady state: a change-point test of its warm-up, and of what was measured.

Many programs never settle, so "no steady state" is an outcome of its own and not something to average over.
Source: Barrett et al., "Virtual machine warmup blows hot and cold", OOPSLA 2017.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from statistics import median

import numpy as np

from kopt.check.change_points import change_points
from kopt.check.verdict import tail_of_t

MATERIAL = 0.03
"""A change of level smaller than this does not matter to any verdict."""

DRIFT_P = 0.001
"""A drift that all processes share is called one when chance would show it less often than this."""

_WINDOWS = 32
_MIN_WINDOWS = 8


class State(StrEnum):
    """What a series of calls did."""

    FLAT = "flat"
    WARM_UP = "warm-up"
    SLOW_DOWN = "slow-down"
    UNSTEADY = "no steady state"


def state_of(samples_ns: Sequence[int]) -> State:
    """The state of calls in the order they ran; FLAT for too few to tell.

    UNSTEADY: the level still changed in the later half. WARM_UP and SLOW_DOWN: it settled faster or slower than it began.
    """
    return _state_of_levels(_windows(samples_ns, _WINDOWS))


def states_of_sides(samples_ns: Mapping[int, Sequence[int]], stretches: Mapping[int, Sequence[float]]) -> dict[int, State]:
    """The states of sides that took turns: what the machine does hits all of them, so a change counts if it is one of a side alone.

    Args:
        samples_ns: calls by side, in the order they ran.
        stretches: medians of the stretches between turns by side, equally many.
    """
    states = {side: state_of(samples) for side, samples in samples_ns.items()}
    if len(states) == 2 and State.UNSTEADY in states.values():
        one, other = (np.log(np.asarray(levels, float)) for levels in stretches.values())
        if one.size >= _MIN_WINDOWS and (together := _state_of_levels(one - other)) is not State.UNSTEADY:
            return {side: together if state is State.UNSTEADY else state for side, state in states.items()}
    return states


def _state_of_levels(levels: np.ndarray) -> State:
    if levels.size < _MIN_WINDOWS:
        return State.FLAT
    cuts = (0, *_material_cuts(levels), levels.size)
    if any(cut >= levels.size // 2 for cut in cuts[1:-1]):
        return State.UNSTEADY
    first, last = float(np.median(levels[: cuts[1]])), float(np.median(levels[cuts[-2] :]))
    if abs(last - first) <= MATERIAL:
        return State.FLAT
    return State.WARM_UP if last < first else State.SLOW_DOWN


def _windows(samples_ns: Sequence[int], most: int) -> np.ndarray:
    """Logarithms of the medians of up to ``most`` equal stretches of calls, f64 (windows,)."""
    count = min(most, len(samples_ns))
    ends = [len(samples_ns) * k // count for k in range(count + 1)] if count else [0]
    return np.log([median(samples_ns[start:end]) for start, end in itertools.pairwise(ends)])


def common_drift(series: Sequence[Sequence[float]]) -> float:
    """By how much levels moved from the earlier to the later half of their series, alike in all; 0.0 when they held.

    Args:
        series: one per process, logarithms of latencies or of ratios, in the order measured. What the machine does to one
            process is no drift of the artifact: only what all of them show beyond chance is (two-sided t test at 0.1 %).
    """
    moves = np.array([np.mean(one[-(len(one) // 2) :]) - np.mean(one[: len(one) // 2]) for one in series if len(one) >= 2])
    if moves.size < 2 or abs(move := float(np.median(moves))) <= MATERIAL:
        return 0.0
    error = float(moves.std(ddof=1)) / math.sqrt(moves.size)
    return move if tail_of_t(abs(float(moves.mean())), error, moves.size - 1) <= DRIFT_P / 2 else 0.0


def _material_cuts(levels: np.ndarray) -> list[int]:
    """Change points whose neighbouring levels differ by more than what matters and more than their own uncertainty."""
    cuts = [0, *change_points(levels.tolist()), levels.size]
    kept = []
    for before, cut, after in zip(cuts[:-2], cuts[1:-1], cuts[2:], strict=True):
        left, right = levels[before:cut], levels[cut:after]
        error = 2 * float(np.sqrt(left.var() / left.size + right.var() / right.size))
        if abs(float(np.median(right)) - float(np.median(left))) > max(MATERIAL, error):
            kept.append(cut)
    return kept
