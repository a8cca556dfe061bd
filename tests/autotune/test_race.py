"""Races with drift, noise, failures and ties; the batch curve, its knee and its Pareto front."""

from __future__ import annotations

import itertools
import random

import pytest

from kopt.autotune.race import BatchPoint, RaceSettings, batch_curve, chosen_batches, knee, pareto, race
from kopt.errors import ToolchainError

QUICK = RaceSettings(rounds=4, block_s=0.001)


class Car:
    """A contender on a machine whose speed drifts with every block run, by anybody."""

    machine = itertools.count()

    def __init__(self, time_ns: float, *, noise: float = 0.0, drift: float = 0.0, dies_after: int = 10**9) -> None:
        self.time_ns, self.noise, self.drift, self.left, self.blocks = time_ns, noise, drift, dies_after, []

    def block(self, block_s, min_calls, max_s):
        self.left -= 1
        if self.left < 0:
            raise ToolchainError("it died")
        self.blocks.append(block_s)
        now = self.time_ns * (1 + self.drift * next(Car.machine))
        rng = random.Random(next(Car.machine))
        return [round(now * rng.lognormvariate(0, self.noise)) for _ in range(9)]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_fastest_wins(count) -> None:
    cars = [Car(1000.0 + 100 * ((k * 5) % count), noise=0.02) for k in range(count)]
    found = race(cars, QUICK)
    assert [cars[k].time_ns for k in found.order] == sorted(car.time_ns for car in cars)
    assert found.ratios[0] == 1.0
    assert all(ratio >= 0.99 for ratio in found.ratios)


def test_drift_of_the_machine_does_not_decide() -> None:
    cars = [Car(1000.0 + 60 * k, drift=0.02) for k in (3, 1, 0, 2)]
    assert race(cars, QUICK).order[0] == 2


def test_the_slower_half_leaves_and_blocks_grow() -> None:
    cars = [Car(1000.0 * (k + 1)) for k in range(8)]
    race(cars, QUICK)
    assert [len(car.blocks) for car in cars] == [12, 12, 8, 8, 4, 4, 4, 4]
    assert cars[0].blocks[0] * 4 == cars[0].blocks[-1]


def test_among_equals_the_first_wins() -> None:
    assert race([Car(1004.0), Car(1000.0), Car(1000.0)], QUICK).order[0] == 0
    assert race([Car(1030.0), Car(1000.0), Car(1000.0)], QUICK).order[0] == 1


def test_whoever_fails_is_out() -> None:
    found = race([Car(10.0, dies_after=0), Car(20.0, dies_after=5), Car(30.0), Car(40.0)], QUICK)
    assert found.order[0] == 2
    assert found.failures == {0: "it died", 1: "it died"}
    assert not {0, 1} & set(found.order)
    assert race([Car(1.0, dies_after=0)], QUICK).order == ()
    assert race([], QUICK).order == ()


def test_a_race_ends_when_time_is_over() -> None:
    cars = [Car(1000.0 + k) for k in (90, 60, 30)]
    found = race(cars, QUICK, is_over=lambda: True)
    assert [len(car.blocks) for car in cars] == [1, 1, 1]
    assert found.order == (2, 1, 0)


def points(**times) -> list[BatchPoint]:
    return [BatchPoint(int(name[1:]), time) for name, time in times.items()]


CURVE = points(b1=100.0, b2=120.0, b4=200.0, b8=390.0, b16=900.0, b32=1700.0)


def test_the_curve_stops_where_throughput_falls() -> None:
    asked = []

    def measure(batch: int) -> float | None:
        asked.append(batch)
        return 100.0 + (10.0 * batch if batch <= 8 else 20.0 * batch)

    found = batch_curve(measure, [1, 2, 4, 8, 16, 32, 64, 128])
    assert [point.batch for point in found] == asked == [1, 2, 4, 8, 16, 32]
    assert [point.batch for point in batch_curve(lambda batch: None if batch > 4 else 100.0, [1, 2, 4, 8, 16])] == [1, 2, 4]
    assert [point.batch for point in batch_curve(lambda batch: 100.0, [1, 2, 4], is_over=lambda: True)] == [1]
    assert batch_curve(lambda batch: None, [1, 2]) == []


def test_pareto_front_and_knee() -> None:
    assert [point.batch for point in pareto(CURVE)] == [1, 2, 4, 8]
    assert knee(CURVE).batch == 4
    assert knee(CURVE, 1.0).batch == 8
    assert knee([]) is None
    assert CURVE[0].throughput_per_s == 10_000


@pytest.mark.parametrize(("objective", "wanted"), [("latency", (1,)), ("throughput", (4,)), ("pareto", (1, 2, 4, 8))])
def test_batches_for_an_objective(objective, wanted) -> None:
    assert chosen_batches(CURVE, objective) == wanted
    assert chosen_batches([], objective) == ()
