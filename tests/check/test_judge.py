"""From samples to results: regressions need confirmation, disturbed pairs do not count, each limit has its own rule."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from kopt.check.judge import judge_absolute, judge_regression, thinned
from kopt.check.measure_pairs import PairProtocol
from kopt.check.steady import State
from kopt.check.verdict import Verdict
from support.runs import process_run

PROTOCOL = PairProtocol()


def runs(slowdown=0.0, count=5, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [process_run(rng, slowdown, **options) for _ in range(count)]


def regression(first, confirmation=(), limit=0.05):
    return judge_regression(first, confirmation, limit, seed=0, protocol=PROTOCOL)


@pytest.mark.parametrize(("slowdown", "verdict"), [(0.0, Verdict.PASS), (-0.3, Verdict.PASS), (0.3, Verdict.FAIL)])
def test_clear_changes(slowdown, verdict) -> None:
    found = regression(runs(slowdown), runs(slowdown, seed=1))
    assert (found.verdict, found.num_pairs) == (verdict, 20)
    assert found.value == pytest.approx(slowdown, abs=0.02)
    assert found.lower <= found.value <= found.upper


def test_a_slowdown_that_is_not_confirmed_is_inconclusive() -> None:
    assert "no time to confirm" in regression(runs(0.3)).note
    found = regression(runs(0.3), runs(0.0, seed=1))
    assert (found.verdict, "did not confirm" in found.note) == (Verdict.INCONCLUSIVE, True)


def test_noise_says_how_many_pairs_would_settle_it() -> None:
    found = regression(runs(0.04, noise=0.08))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "pairs would settle it" in found.note


def test_disturbed_pairs_do_not_count() -> None:
    calm, throttled = runs(0.0, 4), runs(0.5, 1, seed=1, throttled=3)
    found = regression([*calm, *throttled])
    assert (found.verdict, found.num_pairs) == (Verdict.PASS, 16)
    found = regression([*calm[:2], *throttled])
    assert (found.verdict, math.isnan(found.value)) == (Verdict.INCONCLUSIVE, True)
    assert "interfered with 4 pairs" in found.note


@pytest.mark.parametrize("side", ["candidate", "baseline"])
def test_a_side_that_never_settles_is_no_steady_state(side) -> None:
    slow = [replace(run, **{f"{side}_warm_up": State.UNSTEADY}) for run in runs(0.3)]
    found = regression(slow, runs(0.3, seed=1))
    assert (found.verdict, f"no steady state: the {side}" in found.note, "5 of 5" in found.note) == (Verdict.INCONCLUSIVE, True, True)
    assert regression([*slow[:3], *runs(0.3, 2, seed=2)], runs(0.3, seed=1)).verdict is Verdict.FAIL
    for key in ("p50", "throughput"):
        found = judge_absolute(key, 1e-9, 1, slow, seed=0)
        assert ("no steady state" in found.note) is (side == "candidate")


def test_a_candidate_that_slows_down_meanwhile_has_no_steady_state() -> None:
    rng = np.random.default_rng(0)
    steady, slow = (process_run(rng, factor, pairs=2) for factor in (0.0, 0.3))
    drifting = [replace(steady, pairs=steady.pairs + slow.pairs)] * 5
    assert "got slower while it was measured (+3" in regression(drifting).note
    assert "got slower" in judge_absolute("p50", 1.0, 1, drifting, seed=0).note
    assert "got faster" in regression([replace(run, pairs=run.pairs[::-1]) for run in drifting]).note
    assert "steady" not in regression([*drifting[:3], steady, steady]).note


@pytest.mark.parametrize(("limit", "verdict"), [(1.2e-3, Verdict.PASS), (0.8e-3, Verdict.FAIL), (1.0e-3, Verdict.INCONCLUSIVE)])
def test_the_median_against_a_limit(limit, verdict) -> None:
    found = judge_absolute("p50", limit, 1, runs(alone=True), seed=0)
    assert found.verdict is verdict
    assert found.value == pytest.approx(1e-3, rel=0.02)


def test_p99_needs_many_calls_and_many_blocks() -> None:
    few = judge_absolute("p99", 2e-3, 1, runs(alone=True, count=5, calls=20), seed=0)
    assert few.verdict is Verdict.INCONCLUSIVE
    assert "more calls could settle it" in few.note
    enough = judge_absolute("p99", 2e-3, 1, runs(alone=True, count=5, calls=40), seed=0)
    assert (enough.verdict, math.isnan(enough.value), "not estimable" in enough.note) == (Verdict.PASS, True, True)
    assert judge_absolute("p99", 2e-3, 1, runs(alone=True, calls=100), seed=0).value < 1.2e-3
    assert "blocks" in judge_absolute("p99", 2e-3, 1, runs(alone=True, count=1, calls=900), seed=0).note


@pytest.mark.parametrize(("limit", "verdict"), [(7000, Verdict.PASS), (9000, Verdict.FAIL), (8000, Verdict.INCONCLUSIVE)])
def test_throughput_is_at_least(limit, verdict) -> None:
    found = judge_absolute("throughput", limit, 8, runs(alone=True), seed=0)
    assert found.verdict is verdict
    assert found.value == pytest.approx(8000, rel=0.02)


def test_load_time_and_memory_are_judged_by_process() -> None:
    several = runs(alone=True)
    assert judge_absolute("load_time", 0.2, 1, several, seed=0).verdict is Verdict.PASS
    assert judge_absolute("peak_memory", 1e7, 1, several, seed=0).verdict is Verdict.FAIL
    assert judge_absolute("load_time", 0.2, 1, [], seed=0).verdict is Verdict.INCONCLUSIVE


def test_long_blocks_are_thinned_evenly() -> None:
    assert list(thinned(range(10), 20)) == list(range(10))
    assert list(thinned(range(10), 5)) == [0, 2, 4, 6, 8]
