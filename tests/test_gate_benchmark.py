"""The harness of the gate's rates: its noise, its virtual runs, and its counting."""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import pytest

from support.runs import process_run
from support.source import ROOT

sys.path.append(str(ROOT / "benchmarks" / "gate"))

import noise
import real
import traces

from kopt.check.verdict import Verdict


@pytest.mark.parametrize("name", noise.traces())
def test_traces_are_relative_times_that_a_seed_decides(name) -> None:
    trace = noise.traces()[name]
    found = trace(np.random.default_rng(3), 500)
    assert found.shape == (500,)
    assert (found > 0).all()
    assert 0.5 < np.median(found) < 2
    np.testing.assert_array_equal(found, trace(np.random.default_rng(3), 500))
    assert not np.array_equal(found, trace(np.random.default_rng(4), 500))


def test_noise_is_as_strong_as_it_says(rng) -> None:
    assert np.log(noise.white(rng, 20_000)).std() == pytest.approx(0.031, rel=0.1)
    busy = noise.neighbour(rng, 50_000) > 1.15
    assert 0.3 < busy.mean() < 0.6
    assert (noise.bursts(rng, 50_000) > 1.3).mean() > 0.02
    assert np.std([np.log(noise.drift(rng, 400)[-100:].mean()) for _ in range(100)]) > 0.02


def test_a_virtual_run_is_the_gate_itself() -> None:
    same, seconds = traces.gate_run(noise.white, 0.0, [0, 1])
    assert (same.verdict, same.num_pairs) == (Verdict.PASS, 80)
    assert 20 < seconds < 60
    slower, longer = traces.gate_run(noise.white, 0.10, [0, 1])
    assert (slower.verdict, longer <= 120) == (Verdict.FAIL, True)
    assert slower.value == pytest.approx(0.10, abs=0.02)
    assert traces.gate_run(noise.white, 0.10, [0, 1]) == (slower, longer)


def test_runs_are_counted_by_cell_and_continued() -> None:
    options = argparse.Namespace(only="white", runs=40, power_runs=20)
    cells = {}
    planned = traces.one_round(cells, options)
    assert [(one[0], one[3]) for one in planned if one[2] == 0.0] == [("white +0%", 0), ("white +0%", 20)]
    assert len(planned) == 2 + len(traces.EFFECTS) - 1
    traces.count(cells["white +0%"], traces.chunk("white", 0.0, 0))
    cell = cells["white +0%"]
    assert (cell["runs"], sum(cell["outcomes"].values()), cell["jobs_of_20"]) == (20, 20, 1)
    assert cells["white +5%"]["outcomes"] == {}
    assert [one[3] for one in traces.one_round(cells, options) if one[2] == 0.0] == [20]
    assert "white +0%" in traces.summary({"white +0%": cell})


def test_bounds_of_rates_are_the_published_ones() -> None:
    assert traces.upper_bound(0, 200) == pytest.approx(0.01487, rel=1e-3)
    assert traces.upper_bound(1, 473) == pytest.approx(0.01, rel=5e-3)
    assert traces.upper_bound(5, 5) == 1.0


def test_chains_are_equal_layers() -> None:
    layers = [len(real.chain(real.LAYERS[name]).graph.node) // 2 for name in ("base", "slower 5 %", "slower 10 %")]
    assert [one / layers[0] - 1 for one in layers[1:]] == pytest.approx([0.0526, 0.105], abs=1e-3)
    line = {"kind": "aa", "verdict": "pass", "effect": 0.01, "seconds": 3.0}
    assert real.summary([line, {**line, "effect": None}]).split()[:4] == ["aa", "2", "runs", "{'pass':"]


def test_stored_runs_are_judged_again_as_they_were(rng) -> None:
    made = [real.rounded(process_run(rng, 0.2, noise=0.01)) for _ in range(4)]
    again = real.unpack(json.loads(json.dumps(real.pack(made))))
    assert [run.pairs for run in again] == [run.pairs for run in made]
    assert [(run.baseline_first, run.candidate_warm_up) for run in again] == [(run.baseline_first, run.candidate_warm_up) for run in made]
    line = {"number": 3, "processes": [2, 2], "samples": real.pack(made)}
    assert real.judged_again(line) == "fail"
    assert real.judged_again({**line, "samples": real.pack([real.rounded(process_run(rng, 0.0, noise=0.01)) for _ in range(4)])}) == "pass"


def test_results_belong_to_the_code_that_made_them() -> None:
    assert traces.code() == traces.code()
    assert len(traces.code()) == 16
