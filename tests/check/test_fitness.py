"""Whether a machine can gate: faked system trees, made-up noise, and the real child once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kopt import errors
from kopt.check import fitness as f
from kopt.check.measure_pairs import MachineCounters, PairProtocol
from kopt.check.verdict import Verdict, compare
from kopt.cli import doctor_command
from kopt.cli.main import invoke

QUIET = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
    "sys/devices/system/cpu/smt/active": "0\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "proc/loadavg": "0.10 0.20 0.30 1/100 4242\n",
    "proc/meminfo": "MemTotal: 100 kB\nSwapTotal: 2000000 kB\nSwapFree: 2000000 kB\n",
}
LOUD = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpufreq/boost": "1\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": None,
    "sys/devices/system/cpu/smt/active": "1\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
    "sys/fs/cgroup/cpu.max": None,
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "proc/loadavg": "3.10 0.20 0.30 1/100 4242\n",
    "proc/meminfo": "SwapTotal: 2000000 kB\nSwapFree: 1000000 kB\n",
}


def system(folder, files):
    for name, text in files.items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return {one.name: one for one in f.conditions(folder, cores=4)}


def test_a_quiet_machine_has_no_problem(tmp_path) -> None:
    found = system(tmp_path, QUIET)
    assert list(found) == ["governor", "boost", "quota", "load", "SMT", "timer", "swap in use"]
    assert [one.problem for one in found.values()] == [""] * 7
    assert found["quota"].found == "none, 4 cores"


def test_every_problem_is_named_with_what_to_do(tmp_path) -> None:
    found = system(tmp_path, {**QUIET, **LOUD})
    assert all(one.problem for one in found.values()), found
    assert found["governor"].found == "performance, powersave"
    assert found["quota"].found == "1.5 of 4 cores"
    assert "--threads 1" in found["quota"].problem


def test_what_a_system_does_not_tell_is_left_out(tmp_path) -> None:
    assert list(system(tmp_path, {})) == ["quota"]
    assert list(system(tmp_path, {"proc/loadavg": "", "proc/meminfo": "?", "sys/fs/cgroup/cpu.max": "a b"})) == ["quota"]


def test_interference_is_what_grew_meanwhile() -> None:
    calm = f.interference(MachineCounters(5, 5, 100), MachineCounters(5, 6, 200))
    assert [(one.name, one.found, one.problem) for one in calm] == [("throttling", "0 periods", ""), ("steal", "1.0%", "")]
    assert all(one.problem for one in f.interference(MachineCounters(0, 0, 0), MachineCounters(3, 10, 100)))


def equal(rng, noise, processes=3, layout=0.0):
    return [(rng.normal(0, layout) + rng.normal(0, noise, 16)).tolist() for _ in range(processes)]


def test_the_named_slowdown_is_what_the_gate_finds(rng) -> None:
    """Noise is measured in three processes; the slowdown it names is then put into runs of five."""
    noise = 0.05
    named = [f.judge_noise(equal(rng, noise, layout=0.005)) for _ in range(40)]
    slowdown = float(np.median([one.smallest_slowdown for one in named]))
    assert 0.03 < slowdown < 0.10
    runs = [[(np.log1p(slowdown) + np.array(one)).tolist() for one in equal(rng, noise, 5, 0.005)] for _ in range(200)]
    found = sum(compare(run, max_regression=min(0.05, slowdown - 1e-9), seed=k).verdict is Verdict.FAIL for k, run in enumerate(runs))
    assert found >= 180
    assert f.judge_noise(equal(rng, 0.4)).fit is False
    quiet = f.judge_noise(equal(rng, 0.003))
    assert (quiet.fit, quiet.num_pairs, quiet.smallest_slowdown < 0.04, quiet.passing_limit < 0.02) == (True, 48, True, True)


def test_two_equal_programs_are_measured_in_processes(monkeypatch) -> None:
    protocol = PairProtocol(processes=2, quads=1, block_s=0.001, min_calls=3, warmup_s=0.0)
    noise, meanwhile = f.counted_noise(protocol)
    assert noise.num_pairs == 4
    assert [one.name for one in meanwhile] == ["throttling", "steal"]
    monkeypatch.setattr(f.sys, "executable", "/bin/false")
    with pytest.raises(errors.ToolchainError, match="noise measurement failed"):
        f.measure_noise(protocol)


@pytest.mark.parametrize(("spread", "words"), [(0.005, "this machine can gate"), (0.5, "too noisy")])
def test_the_command_says_whether_and_at_what_size(monkeypatch, capsys, rng, spread, words) -> None:
    monkeypatch.setattr(f, "measure_noise", lambda protocol: equal(rng, spread))
    assert invoke(["doctor", "--bench"]) == 0
    text = capsys.readouterr().out
    assert words in text
    assert "48 pairs" in text
    assert invoke(["doctor", "--bench", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["can_gate"] is (spread < 0.1)
    assert set(content["noise"]) == {"num_pairs", "spread", "smallest_slowdown", "passing_limit"}
    assert {"name", "found", "problem"} == set(content["conditions"][0])
    assert doctor_command.examine_bench()["verdict"].startswith("this machine")
