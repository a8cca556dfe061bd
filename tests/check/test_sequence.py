"""How much is measured: doubling, confirmation, and the time limit, on a clock that the test moves."""

from __future__ import annotations

import numpy as np
import pytest

from kopt.check.measure_pairs import PairProtocol
from kopt.check.sequence import MAX_PROCESSES_ALONE, MeasuringTime
from support.runs import process_run


class Scene:
    """Every process takes ``seconds``; its slowdown may change from run to run."""

    def __init__(self, slowdowns, seconds=5.0, limit=120.0, noise=0.01):
        self.now, self.calls, self.rng = 0.0, [], np.random.default_rng(0)
        self.slowdowns, self.seconds, self.noise, self.limit = slowdowns, seconds, noise, limit
        self.time = MeasuringTime(self.measure, PairProtocol(), limit, lambda: self.now)

    def measure(self, number, beside_baseline, max_block_s, within_s):
        self.calls.append((number, beside_baseline))
        self.now += self.seconds
        self.block_s = max_block_s
        assert within_s == self.limit - (self.now - self.seconds)
        slowdown = self.slowdowns[min(number, len(self.slowdowns) - 1)]
        return process_run(self.rng, slowdown, alone=not beside_baseline, noise=self.noise)


def sizes(scene, limit=0.05):
    first, confirmation = scene.time.regression(limit, 0)
    return len(first), len(confirmation)


def test_a_clear_pass_takes_one_look() -> None:
    assert sizes(Scene([0.0])) == (5, 0)


def test_a_slowdown_is_confirmed_in_fresh_processes() -> None:
    scene = Scene([0.3])
    assert sizes(scene) == (5, 5)
    assert [number for number, _ in scene.calls] == list(range(10))


def test_a_confirmation_that_neither_confirms_nor_refutes_is_extended() -> None:
    unclear = Scene([0.3] * 5 + [0.12, -0.1] * 9, limit=1e6)
    assert sizes(unclear) == (5, 10)
    refuted = Scene([0.3] * 5 + [0.0], limit=1e6)
    assert sizes(refuted) == (5, 5)


def test_time_for_a_confirmation_is_kept() -> None:
    scene = Scene([0.045], noise=0.05, seconds=9.0)
    first, _ = sizes(scene)
    assert 5 < first <= 10
    assert scene.now <= 120


def test_unclear_pairs_are_doubled_while_time_remains() -> None:
    assert sizes(Scene([0.0, 0.09, -0.02], noise=0.06, limit=1e6))[0] in (10, 20)
    scene = Scene([0.045], noise=0.05, seconds=7.0)
    first, _ = sizes(scene)
    assert 5 < first < 20
    assert scene.now <= 120


@pytest.mark.parametrize("seconds", [1.0, 7.0, 30.0])
@pytest.mark.parametrize("slowdown", [0.0, 0.045, 0.3])
def test_the_time_limit_holds(seconds, slowdown) -> None:
    scene = Scene([slowdown], seconds, noise=0.04)
    first, confirmation = scene.time.regression(0.05, 0)
    scene.time.alone([*first, *confirmation], lambda runs: False)
    assert scene.now <= 120
    assert 0.25 <= scene.block_s <= 2.0


def test_a_single_process_runs_even_when_there_is_no_time() -> None:
    assert sizes(Scene([0.3], seconds=300.0)) == (1, 0)


def test_absolute_limits_take_three_processes_or_until_settled() -> None:
    assert len(Scene([0.0]).time.alone([], lambda runs: True)) == 3
    assert len(Scene([0.0]).time.alone([], lambda runs: len(runs) >= 6)) == 6
    assert len(Scene([0.0], limit=1e6).time.alone([], lambda runs: False)) == MAX_PROCESSES_ALONE
    scene = Scene([0.0])
    first, _ = scene.time.regression(0.05, 0)
    assert scene.time.alone(first, lambda runs: True) == ()
