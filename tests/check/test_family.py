"""Many limits in one job."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kopt.check.family import correct, holm, is_doubtful
from kopt.check.judge import Finding, Result, judge_absolute
from kopt.check.verdict import Verdict, tail_of_t
from support.runs import process_run


def failure(p_value, key="p50"):
    return Result("m", 1, key, Verdict.FAIL, 1.0, p_value=p_value)


def test_holm_against_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.01, 0.02, 0.012, 0.005], 0.05) == [True, True, True, True]
    assert holm([]) == []


def test_a_failure_must_stand_among_all_limits_of_a_job() -> None:
    quiet = [Result("m", batch, "p50", Verdict.PASS, 1.0, p_value=1.0) for batch in range(19)]
    sure, doubtful = correct([failure(1e-6), failure(0.004), *quiet])[:2]
    assert (sure.verdict, doubtful.verdict) == (Verdict.FAIL, Verdict.INCONCLUSIVE)
    assert "among 21 limits" in doubtful.note
    assert correct([failure(0.004)])[0].verdict is Verdict.FAIL


def test_plain_numbers_are_no_family() -> None:
    sizes = [failure(math.nan, "artifact_size")] * 50
    assert [one.verdict for one in correct([*sizes, failure(0.004)])] == [Verdict.FAIL] * 51


def test_measuring_goes_on_while_a_failure_would_not_stand() -> None:
    assert not is_doubtful(Finding(Verdict.FAIL, p_value=0.004), 1)
    assert is_doubtful(Finding(Verdict.FAIL, p_value=0.004), 20)
    assert not is_doubtful(Finding(Verdict.PASS, p_value=1.0), 20)
    assert not is_doubtful(Finding(Verdict.FAIL, p_value=math.nan), 20)


@pytest.mark.parametrize(("t", "degrees", "tail"), [(2.776, 4, 0.025), (4.604, 4, 0.005), (1.833, 9, 0.05)])
def test_tails_match_the_published_table(t, degrees, tail) -> None:
    assert tail_of_t(t, 1.0, degrees) == pytest.approx(tail, rel=2e-3)
    assert (tail_of_t(1.0, 0.0, 4), tail_of_t(-1.0, 0.0, 4), tail_of_t(9.0, 1.0, 0)) == (0.0, 1.0, 1.0)


def test_limits_at_the_truth_fail_seldom_and_a_job_of_them_too() -> None:
    """The limit is the true median itself, the hardest case; processes differ from each other."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        runs = []
        for _ in range(3):
            layout = rng.normal(0, 0.01)
            runs.append(process_run(rng, math.expm1(layout), alone=True, calls=20))
        found.append(judge_absolute("p50", 1e-3, 1, runs, seed=0))
    assert sum(one.verdict is Verdict.FAIL for one in found) <= 9
    jobs = [
        correct([Result("m", 1, "p50", one.verdict, 1e-3, p_value=one.p_value) for one in found[k : k + 20]]) for k in range(0, 300, 20)
    ]
    assert sum(any(one.verdict is Verdict.FAIL for one in job) for job in jobs) <= 1
