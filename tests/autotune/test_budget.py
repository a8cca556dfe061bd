"""Durations, and the split of a budget: time goes where the model loses most and something is left to gain."""

from __future__ import annotations

import pytest

from kopt.autotune.budget import Arm, choose, parse_duration
from kopt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("30d", 2_592_000), ("0.5m", 30), ("45", 45), (2.5, 2.5), (" 2M ", 120)],
)
def test_durations(text, seconds) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "soon", "10x", "m", "-5m", "5m oops", "1m2", "1e9", "nan"])
def test_what_is_no_duration(text) -> None:
    with pytest.raises(UsageError, match="not a duration"):
        parse_duration(text)


def spend(times, rounds: int, *, calls, gain=lambda index, number: 0.0, floors=None, seconds=None) -> list[int]:
    """How many rounds each of several searches gets when each round lowers its time by a share."""
    arms = [Arm(str(index), calls[index], floor_us=(floors or [0] * len(times))[index]) for index in range(len(times))]
    now = list(times)
    for _ in range(rounds):
        index = choose(arms)
        if arms[index].rounds:
            now[index] *= 1 - gain(index, arms[index].rounds)
        arms[index].took((seconds or [1.0] * len(times))[index], now[index])
    return [arm.rounds for arm in arms]


def test_time_goes_where_the_model_spends_it() -> None:
    rounds = spend([100.0, 100.0, 10.0], 40, calls=[10, 1, 1])
    assert rounds[0] > rounds[1] > rounds[2] >= 1


def test_time_goes_where_something_is_gained() -> None:
    rounds = spend([100.0, 100.0], 30, calls=[1, 1], gain=lambda index, number: 0.1 if index else 0.0)
    assert rounds[1] > 2 * rounds[0]


def test_what_is_at_its_floor_gets_no_more() -> None:
    assert spend([100.0, 100.0], 20, calls=[1, 1], floors=[99.0, 20.0])[0] <= 3


def test_cheap_rounds_are_preferred() -> None:
    rounds = spend([100.0, 100.0], 30, calls=[1, 1], seconds=[10.0, 1.0])
    assert rounds[1] > 2 * rounds[0]


def test_a_slower_implementation_of_a_workload_is_not_searched_on() -> None:
    arms = [Arm("conv", best_us=100.0, rounds=2, seconds=2.0), Arm("conv", best_us=400.0, rounds=2, seconds=2.0)]
    for _ in range(20):
        index = choose(arms)
        arms[index].took(1.0, arms[index].best_us)
    assert arms[0].rounds > 3 * arms[1].rounds


def test_everything_is_started_once_and_finished_searches_get_nothing() -> None:
    arms = [Arm("a", calls=1), Arm("b", calls=5), Arm("c", calls=3)]
    order = []
    for _ in arms:
        order.append(choose(arms))
        arms[order[-1]].took(1.0, 10.0)
    assert order == [1, 2, 0]
    arms[1].is_finished = True
    assert choose(arms) != 1
    for arm in arms:
        arm.is_finished = True
    assert choose(arms) is None
    assert choose([]) is None


def test_a_workload_where_all_failed_does_not_take_the_budget() -> None:
    arms = [Arm("a"), Arm("b")]
    for _ in range(20):
        index = choose(arms)
        arms[index].took(1.0, None if index == 0 else 10.0)
    assert arms[0].rounds <= 3
