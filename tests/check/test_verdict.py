import math

import numpy as np
import pytest

from kopt.check import verdict as v
from kopt.check.verdict import Verdict


def effects(rng, slowdown, *, processes=5, pairs=4, noise=0.01, layout=0.004):
    return [(math.log1p(slowdown) + rng.normal(0, layout) + rng.normal(0, noise, pairs)).tolist() for _ in range(processes)]


@pytest.mark.parametrize(("slowdown", "expected"), [(0.0, Verdict.PASS), (-0.2, Verdict.PASS), (0.10, Verdict.FAIL), (0.30, Verdict.FAIL)])
def test_clear_cases(slowdown, expected):
    rng = np.random.default_rng(0)
    for seed in range(20):
        assert v.compare(effects(rng, slowdown), seed=seed).verdict is expected


def test_rates_over_many_synthetic_runs():
    rng = np.random.default_rng(1)
    same = [v.compare(effects(rng, 0.0), seed=k).verdict for k in range(400)]
    slower = [v.compare(effects(rng, 0.10), seed=k).verdict for k in range(400)]
    faster = [v.compare(effects(rng, -0.10), seed=k).verdict for k in range(200)]
    assert same.count(Verdict.FAIL) == 0
    assert slower.count(Verdict.FAIL) >= 396
    assert faster.count(Verdict.FAIL) == 0
    at_the_limit = [v.compare(effects(rng, 0.05), seed=k).verdict for k in range(400)]
    assert at_the_limit.count(Verdict.FAIL) >= 380


def test_noise_gives_inconclusive_and_says_how_many_pairs_would_settle_it():
    rng = np.random.default_rng(2)
    result = v.compare(effects(rng, 0.04, noise=0.08))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.pairs_needed > result.num_pairs == 20


def test_a_generous_limit_lets_a_small_slowdown_pass():
    rng = np.random.default_rng(3)
    assert v.compare(effects(rng, 0.08, noise=0.003), max_regression=0.15).verdict is Verdict.PASS
    assert v.compare(effects(rng, 0.25, noise=0.003), max_regression=0.15).verdict is Verdict.FAIL


def test_same_seed_same_result():
    data = effects(np.random.default_rng(4), 0.02)
    assert v.compare(data, seed=3) == v.compare(data, seed=3)


def test_uneven_processes_are_resampled_within_themselves():
    medians = v.bootstrap_medians([[0.0], [1.0, 1.0, 1.0]], seed=0)
    assert set(np.unique(medians)) <= {0.0, 0.5, 1.0}
    with pytest.raises(ValueError, match="no pairs"):
        v.compare([[], []])


@pytest.mark.parametrize(("over", "samples"), [(0, 459), (1, 662), (2, 838), (5, 1307), (10, 2010)])
def test_p99_sample_counts_match_the_published_table(over, samples):
    assert v.required_samples(0.99, over) == samples


def test_limits_are_judged_by_counts():
    fast, slow = np.full(459, 1.0), np.full(459, 3.0)
    assert v.judge_limit(fast, 0.99, 2.0).verdict is Verdict.PASS
    assert v.judge_limit(slow, 0.99, 2.0).verdict is Verdict.FAIL
    few = v.judge_limit(fast[:200], 0.99, 2.0)
    assert few.verdict is Verdict.INCONCLUSIVE
    assert few.samples_needed == 259
    assert math.isnan(few.value)
    assert v.judge_limit([], 0.5, 1.0).verdict is Verdict.INCONCLUSIVE


def test_quantile_interval_covers_and_uses_the_known_ranks():
    samples = np.arange(1, 1001, dtype=float)
    low, high = v.quantile_interval(samples, 0.99)
    assert 982 <= low <= 984
    assert 996 <= high <= 998
    rng = np.random.default_rng(5)
    hits = sum(lo <= 0.5 <= hi for lo, hi in (v.quantile_interval(rng.random(101), 0.5) for _ in range(500)))
    assert hits >= 465
    assert v.quantile_interval([1.0, 2.0], 0.5) == (-math.inf, math.inf)


def test_bounds_of_few_processes_reach_farther():
    assert v.reach(0.99, 1) == 0.0
    assert v.reach(0.99, 2) == pytest.approx(2.326 * math.sqrt(2), rel=1e-3)
    assert v.reach(0.99, 10_000) == pytest.approx(2.326, rel=1e-3)


def test_a_slowdown_of_exactly_the_limit_passes_seldom():
    rng = np.random.default_rng(6)
    passed = sum(v.compare(effects(rng, 0.05, layout=0.01), seed=k).verdict is Verdict.PASS for k in range(400))
    assert passed <= 16


def test_worst():
    assert Verdict.worst([]) is Verdict.PASS
    assert Verdict.worst([Verdict.PASS, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
    assert Verdict.worst([Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.PASS]) is Verdict.FAIL
