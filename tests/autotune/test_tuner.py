"""A budget split over made-up workloads: every trial is filed, an interrupt loses none, and a warm database makes it quick."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from kopt.autotune.database import TrialDatabase, export_lines, import_lines
from kopt.autotune.record import Surroundings
from kopt.autotune.search import SearchSettings
from kopt.autotune.tuner import Task, Tuner
from kopt.space import Knob, SearchSpace, Workload
from kopt.trial import Failure, Limits, TrialPool, TrialRequest
from support.landscapes import SPACE, gemm, optimum, rugged, unit
from support.tuning import HERE, measured

HEAVY = Task(Workload("conv", ((1, 64, 56, 56),), ("f32",)), "tvm", SPACE, calls=20)
LIGHT = Task(Workload("conv", ((1, 64, 7, 7),), ("f32",)), "tvm", SPACE, calls=1)
COSTS = {HEAVY.workload: gemm, LIGHT.workload: lambda config: rugged(config) / 10}


class Machine:
    """A clock that trials move, and what they cost."""

    def __init__(self, fails=0.0, stop_after: int | None = None) -> None:
        self.now, self.fails, self.stop_after, self.asked = 0.0, fails, stop_after, []

    def clock(self) -> float:
        return self.now

    def measure(self, task, config, *, give_up_us):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((task, config))
        self.now += 0.1
        if unit(config, "fails") < self.fails:
            return Failure("crash", "SIGSEGV", 0.1)
        time = COSTS[task.workload](config)
        return measured(time, complete=give_up_us is None or time < give_up_us)


@pytest.fixture
def database(tmp_path):
    with TrialDatabase(tmp_path / "t.db") as database:
        yield database


def tune(database, machine, budget_s=15.0, tasks=(HEAVY, LIGHT), surroundings=HERE, **more):
    return Tuner(database, surroundings, SearchSettings(seed=1), clock=machine.clock, run="r").tune(
        tasks, machine.measure, budget_s, **more
    )


def test_the_budget_goes_where_the_model_spends_its_time(database) -> None:
    machine, told = Machine(), []
    heavy, light = tune(database, machine, progress=told.append)
    assert 15.0 <= machine.now <= 15.2
    assert heavy.num_trials > 1.5 * light.num_trials > 0
    assert optimum(gemm) / heavy.best.p50_us >= 0.9
    assert len(database.run_trials("r")) == len(machine.asked)
    assert told[0].model_us is None
    whole = [one.model_us for one in told if one.model_us is not None]
    assert whole == sorted(whole, reverse=True)
    assert whole[-1] == pytest.approx(20 * heavy.best.p50_us + light.best.p50_us)
    numbers = [one.num_trials for one in told]
    assert numbers == sorted(set(numbers))  # those of confirming are counted, and told with the next
    assert numbers[:100] == list(range(1, 101))


def test_failures_are_filed_with_their_kind_and_not_repeated(database) -> None:
    first, again = Machine(fails=0.3), Machine(fails=0.3)
    tune(database, first)
    kinds = [one.kind for one in database.run_trials("r")]
    assert kinds.count("crash") > 10
    failed = [(task, config) for task, config in first.asked if unit(config, "fails") < 0.3]
    tune(database, again, 5.0)
    assert again.asked
    assert not [one for one in again.asked if one in failed]


def test_an_interrupt_loses_no_finished_trial_and_the_next_run_goes_on(database, tmp_path) -> None:
    whole = Machine()
    with TrialDatabase(tmp_path / "whole.db") as other:
        tune(other, whole, 6.0)
    first = Machine(stop_after=25)
    with pytest.raises(KeyboardInterrupt):
        tune(database, first, 6.0)
    assert len(database.trials()) == 25
    second = Machine()
    tune(database, second, 6.0 - first.now)
    done = [(task.title, config) for task, config in first.asked]
    assert done == [(task.title, config) for task, config in whole.asked[:25]]
    assert len(second.asked) + 25 == pytest.approx(len(whole.asked), abs=2)
    assert not [one for one in second.asked[:30] if one in first.asked]


def test_what_is_known_elsewhere_is_tried_first_and_measured(database, tmp_path) -> None:
    with TrialDatabase(tmp_path / "other.db") as other:
        best = tune(other, Machine(), 30.0, tasks=[HEAVY], surroundings=Surroundings("elsewhere"))[0].best
        lines = list(export_lines(other))
    import_lines(database, lines)
    machine = Machine()
    (found,) = tune(database, machine, 1.0, tasks=[HEAVY])
    assert best.config in [config for _, config in machine.asked[:4]]
    assert found.best.config == best.config


def test_a_warm_database_leaves_little_to_do(database) -> None:
    (first,) = tune(database, Machine(), 60.0, tasks=[HEAVY])
    again = Machine()
    (found,) = tune(database, again, 60.0, tasks=[HEAVY])
    assert len(again.asked) <= 16
    assert found.best.config == first.best.config
    assert optimum(gemm) / found.best.p50_us >= 0.95


SABOTAGED = {1: "segfault", 4: "hang", 7: "wrong", 10: "eat", 13: "raise", 16: "abort", 19: "wrong"}


def try_in_a_child(pool):
    def measure(task, config, *, give_up_us):
        how = SABOTAGED.get(config["x"], "")
        payload = {"how": how, "x": config["x"], "sleep_s": abs(config["x"] - 11) * 2e-4}
        return pool.run(TrialRequest("support.trial_entries:candidate", payload, pool.reference))

    return measure


def test_real_candidates_may_crash_hang_and_lie(database, tmp_path) -> None:
    reference = tmp_path / "r.npz"
    np.savez(reference, **{"0": np.arange(16, dtype=np.float32) * 2})
    task = Task(Workload("sleep"), "python", SearchSpace((Knob("x", tuple(range(24))),)))
    limits = Limits(seconds=0.7, memory_bytes=400 << 20)
    with TrialPool("support.trial_entries", limits=limits) as pool:
        pool.reference = reference
        (found,) = Tuner(database, HERE).tune([task], try_in_a_child(pool), 60.0)
    assert found.best.config == {"x": 11}
    assert found.num_trials == 24
    kinds = {one.kind for one in database.trials()}
    assert {"measured", "crash", "hang", "wrong"} <= kinds
    assert not [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


def test_a_workload_where_everything_fails_has_no_best(database) -> None:
    heavy, light = tune(database, Machine(fails=1.1), 8.0)
    assert heavy.best is light.best is None
    assert tune(database, Machine(), 5.0, tasks=[]) == []
