"""Pairs of blocks: their order, their processes, and the machine's counters; children are played by a fake."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kopt.check import measure_pairs as m
from kopt.check.steady import State

SHORT = m.PairProtocol(quads=2, block_s=0.01, warmup_s=0.0)


@pytest.fixture
def log(monkeypatch):
    """What happened to the children, in order."""
    events: list[tuple[str, str]] = []

    class Child:
        def __init__(self, kind, model, feeds, *, threads):
            self.name, self.started = Path(model).name, SimpleNamespace(load_s=0.5)
            events.append(("start", self.name))

        def block(self, block_s, min_calls, max_s=None):
            events.append(("warm" if max_s is None else "block", self.name))
            return [{"old": 100, "new": 200}[self.name]] * 3

        def peak_bytes(self):
            return 1000

        def __enter__(self):
            return self

        def __exit__(self, *reason):
            events.append(("end", self.name))

    monkeypatch.setattr(m, "Runner", Child)
    return events


def measure(baseline, number, seed=0, counters=lambda: m.MachineCounters(0, 0, 0)):
    path = None if baseline is None else Path(baseline)
    return m.measure_process(path, Path("new"), {}, number=number, threads=1, protocol=SHORT, max_block_s=1.0, seed=seed, counters=counters)


@pytest.mark.parametrize(("call_s", "quads"), [(1e-5, 8), (0.1, 8), (0.5, 4), (0.9, 2), (30.0, 2), (0.0, 8)])
def test_long_calls_take_fewer_quads(call_s, quads) -> None:
    assert m.quads_within(m.PairProtocol(), 0.25, call_s) == quads


@pytest.mark.parametrize(("slow_s", "stretches", "state"), [(0.0, 1, State.FLAT), (2.0, 8, State.WARM_UP), (99.0, 19, State.UNSTEADY)])
def test_a_side_warms_up_until_it_holds_its_level(slow_s, stretches, state) -> None:
    """Calls take longer and longer until ``slow_s`` have passed, and 10 ms from then on."""
    rng = np.random.default_rng(0)

    class Child:
        clock = 0

        def block(self, block_s, min_calls, max_s=None):
            samples = []
            while sum(samples) < block_s * 1e9:
                factor = 1.5 + self.clock * 1e-9 if self.clock < slow_s * 1e9 else 1.0
                samples.append(int(1e7 * factor * rng.lognormal(0, 0.01)))
                self.clock += samples[-1]
            return samples

    child = Child()
    assert m.warm_up({1: child}, m.PairProtocol(), lambda: 60.0)[0] == {1: state}
    assert child.clock == pytest.approx(stretches * 5e8, abs=1.2e9)


class Turns:
    """Sides on one clock, 10 ms a call: what ``machine`` and ``own`` make of the time, as factors."""

    def __init__(self, machine, own=lambda now: 1.0):
        self.now, self.rng, self.machine = 0.0, np.random.default_rng(0), machine
        self.sides = {
            side: SimpleNamespace(block=lambda *asked, f=factor: self.block(f, *asked))
            for side, factor in {0: lambda _: 1.0, 1: own}.items()
        }

    def block(self, factor, block_s, min_calls, max_s=None):
        samples, end = [], self.now + block_s
        while self.now < end or len(samples) < min_calls:
            samples.append(int(1e7 * self.machine(self.now) * factor(self.now) * self.rng.lognormal(0, 0.01)))
            self.now += samples[-1] / 1e9
        return samples


def slower_for_a_while(now):
    return 1.5 if now < 1.9 else 1.0


def test_what_the_machine_does_to_both_sides_keeps_neither_from_being_steady() -> None:
    alike, alone = Turns(slower_for_a_while), Turns(lambda _: 1.0, slower_for_a_while)
    states, call_s = m.warm_up(alike.sides, m.PairProtocol(warmup_s=1.1), lambda: 60.0)
    assert State.UNSTEADY not in states.values()
    assert alike.now == pytest.approx(2.2, abs=0.3)
    assert call_s == pytest.approx(0.01, rel=0.6)
    states, _ = m.warm_up(alone.sides, m.PairProtocol(warmup_s=1.1), lambda: 60.0)
    assert states[1] is State.WARM_UP
    assert alone.now > 4


def test_without_time_the_warm_up_ends_and_one_quad_is_measured() -> None:
    turns = Turns(lambda now: 1 + now)
    pairs, _ = m.measure_sides(
        {1: turns.sides[1]},
        m.PairProtocol(),
        max_block_s=1.0,
        coins=random.Random(0),
        left_s=lambda: 3.0 - turns.now,
        counters=lambda: m.MachineCounters(0, 0, 0),
    )
    assert 2 <= len(pairs) < 16
    assert turns.now < 5


@pytest.mark.parametrize(("number", "first"), [(0, "old"), (1, "new"), (2, "old")])
def test_the_order_of_loading_is_swapped(log, number, first) -> None:
    run = measure("old", number)
    assert log[0] == ("start", first)
    assert run.baseline_first is (first == "old")
    assert [(pair.baseline_ns, pair.candidate_ns) for pair in run.pairs] == [((100,) * 3, (200,) * 3)] * 4
    assert (run.load_s, run.peak_bytes) == (0.5, 1000)
    assert [name for kind, name in log if kind == "end"] == ["new", "old"][:: 1 if first == "old" else -1]


def test_quads_are_abba_or_baab_by_a_seeded_coin(log) -> None:
    seen = set()
    for number in range(20):
        log.clear()
        measure("old", number)
        blocks = [name for kind, name in log if kind == "block"]
        for quad in (tuple(blocks[:4]), tuple(blocks[4:])):
            assert quad in {("old", "new", "new", "old"), ("new", "old", "old", "new")}
            seen.add(quad)
    assert len(seen) == 2
    log.clear()
    measure("old", 3, seed=7)
    once = list(log)
    log.clear()
    measure("old", 3, seed=7)
    assert log == once


def test_an_artifact_alone_fills_both_halves(log) -> None:
    run = measure(None, 0)
    assert [name for kind, name in log if kind == "start"] == ["new"]
    assert all(pair.baseline_ns == () and len(pair.candidate_ns) == 6 for pair in run.pairs)


def test_an_artifact_beside_itself_has_two_processes(log) -> None:
    measure("new", 0)
    assert log.count(("start", "new")) == 2


def test_interference_is_recorded_with_the_pair(log) -> None:
    readings = iter(m.MachineCounters(n // 3, 3 * n, 100 * n) for n in range(8))
    run = measure("old", 0, counters=lambda: next(readings))
    assert [pair.throttled for pair in run.pairs] == [0, 1, 0, 0]
    assert all(pair.steal == pytest.approx(0.03) and pair.disturbed for pair in run.pairs)


def test_counters_of_a_machine(tmp_path) -> None:
    assert m.read_counters(tmp_path) == m.MachineCounters(0, 0, 0)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 5\nnr_throttled 7\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  10 0 20 60 0 0 0 10 0 0\ncpu0 1\n")
    assert m.read_counters(tmp_path) == m.MachineCounters(7, 10, 100)
