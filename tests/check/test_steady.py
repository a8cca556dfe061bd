"""Change points of warm-ups and of what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from kopt.check.change_points import change_points, noise_of
from kopt.check.steady import State, common_drift, state_of


def calls(rng, *levels, noise=0.02):
    """Calls in ns; each level is (factor, count)."""
    return [int(1e6 * factor * x) for factor, count in levels for x in rng.lognormal(0, noise, count)]


def test_change_points_are_where_the_level_changes(rng) -> None:
    series = np.concatenate([rng.normal(level, 0.01, 20) for level in (0.0, 0.1, 0.05)])
    assert change_points(series.tolist()) == (20, 40)
    assert change_points([0.0] * 30) == ()
    assert change_points([1.0, 2.0, 3.0]) == ()
    assert noise_of(rng.normal(0, 0.01, 400).tolist()) == pytest.approx(0.01, rel=0.2)


def test_white_noise_is_seldom_cut(rng) -> None:
    cut = sum(bool(change_points(rng.normal(0, 0.01, 32).tolist())) for _ in range(400))
    assert cut <= 40


@pytest.mark.parametrize(
    ("levels", "state"),
    [
        ([(1.0, 400)], State.FLAT),
        ([(1.01, 100), (1.0, 300)], State.FLAT),
        ([(1.5, 100), (1.0, 300)], State.WARM_UP),
        ([(3.0, 20), (1.5, 100), (1.0, 300)], State.WARM_UP),
        ([(0.8, 100), (1.0, 300)], State.SLOW_DOWN),
        ([(1.5, 300), (1.0, 100)], State.UNSTEADY),
        ([(1.0, 300), (1.2, 100)], State.UNSTEADY),
        ([(1.0, 3)], State.FLAT),
        ([], State.FLAT),
    ],
)
def test_states(rng, levels, state) -> None:
    found = [state_of(calls(rng, *levels)) for _ in range(20)]
    assert found.count(state) >= 18


def test_single_outliers_are_no_levels(rng) -> None:
    spiked = calls(rng, (1.0, 400))
    for at in rng.choice(400, 12, replace=False):
        spiked[at] *= 3
    assert state_of(spiked) is State.FLAT


@pytest.mark.parametrize(
    ("levels", "move"), [((0, 0, 0, 0), 0), ((0, 0, 0.3, 0.3), 0.3), ((0.3, 0.2, 0.1, 0), -0.2), ((0, 0, 0.02, 0.02), 0)]
)
def test_drift_is_what_all_processes_share(rng, levels, move) -> None:
    series = [[level + rng.normal(0, 0.01) for level in levels] for _ in range(5)]
    assert common_drift(series) == pytest.approx(move, abs=0.03)
    assert common_drift([*series[:2], *[[0.0] * 4] * 3]) == 0.0


def test_noise_is_no_drift(rng) -> None:
    found = [common_drift(rng.normal(0, 0.08, (5, 4)).tolist()) for _ in range(1000)]
    assert sum(move != 0 for move in found) <= 6
    assert common_drift([]) == common_drift([[1.0, 9.0]]) == common_drift([[1.0]] * 5) == 0.0
