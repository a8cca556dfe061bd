"""Whether this machine can gate latencies: what it is set to, and how far two equal programs seem to differ on it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np

from kopt.check.measure_pairs import MAX_STEAL, MachineCounters, PairProtocol, quad_order, read_counters
from kopt.check.verdict import CONFIDENCE, MIN_EFFECT, NOISE_FLOOR, Effects, bootstrap_medians, pair_effect, reach
from kopt.errors import ToolchainError
from kopt.hardware import available_cores
from kopt.measure import time_block

SHORT = PairProtocol(processes=3)
POWER = 0.95
"""How surely a slowdown of the size that is named is found."""

MAX_LOAD = 0.5
USEFUL = 0.10
"""A machine that finds no smaller slowdown than this is called unfit."""

_SLOW_CLOCKS = {"hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"}


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that measuring depends on.

    Attributes:
        name, found: what it is and how it is here.
        problem: what is wrong with that and what to do; empty when nothing is.
    """

    name: str
    found: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Noise:
    """What two equal programs showed, measured as the gate measures.

    Attributes:
        num_pairs: evidence behind it.
        spread: of single pairs, as a share; robust, like the gate itself.
        smallest_slowdown: what a first look of the gate finds with 95 % certainty at the default limit, as a share.
        passing_limit: the smallest ``max_regression`` within which it shows an unchanged artifact to be, likewise.
    """

    num_pairs: int
    spread: float
    smallest_slowdown: float
    passing_limit: float

    @property
    def fit(self) -> bool:
        """Whether gating makes sense here."""
        return max(self.smallest_slowdown, self.passing_limit) <= USEFUL


def conditions(root: Path = Path("/"), cores: int | None = None) -> list[Condition]:
    """Settings and load of the machine; what a system does not tell is left out."""
    cores = available_cores() if cores is None else cores
    cpus = root / "sys/devices/system/cpu"
    found = [_governor(cpus), _boost(cpus), _quota(root, cores), _load(root, cores), _smt(cpus), _clock(root), _swap(root)]
    return [one for one in found if one is not None]


def interference(before: MachineCounters, after: MachineCounters) -> list[Condition]:
    """What the machine took away while something was measured."""
    throttled, steal = after.since(before)
    stopped = "the cgroup's quota stopped the measured processes; raise it or use fewer threads" if throttled else ""
    taken = "the hypervisor gives this machine's cores to others; use another machine" if steal > MAX_STEAL else ""
    return [Condition("throttling", f"{throttled} periods", stopped), Condition("steal", f"{steal:.1%}", taken)]


def judge_noise(effects: Effects, processes: int = PairProtocol().processes) -> Noise:
    """From the log ratios of equal programs, one list per process, to what a first look of ``processes`` can tell."""
    flat = np.array([one for process in effects for one in process], float)
    measured = sum(map(bool, effects))
    normal = NormalDist()
    error = float(bootstrap_medians(effects, 0).std()) * math.sqrt(measured / max(1, measured - 1)) * math.sqrt(measured / processes)
    sure, likely = normal.inv_cdf(CONFIDENCE), normal.inv_cdf(POWER)
    least = max(math.log1p(NOISE_FLOOR) + (sure + likely) * error, math.log1p(MIN_EFFECT) + likely * error)
    passing = (reach(CONFIDENCE, processes) + likely) * error
    spread = 1.4826 * float(np.median(np.abs(flat - np.median(flat))))
    return Noise(flat.size, math.expm1(spread), math.expm1(least), math.expm1(passing))


def measure_noise(protocol: PairProtocol = SHORT) -> Effects:
    """Log ratios of pairs of two equal programs, from fresh processes.

    Raises:
        ToolchainError: a process ended without an answer.
    """
    effects = []
    for number in range(protocol.processes):
        arguments = [str(value) for value in (protocol.quads, protocol.block_s, protocol.min_calls, protocol.warmup_s, number)]
        done = subprocess.run([sys.executable, "-m", "kopt.check.fitness", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
            raise ToolchainError(f"the noise measurement failed: {lines[-1]}", next_step="run `python -m kopt.check.fitness 1 0.1 5 0.1 0`")
        effects.append([float(one) for one in json.loads(done.stdout)])
    return effects


def counted_noise(protocol: PairProtocol = SHORT) -> tuple[Noise, list[Condition]]:
    """The noise, and what interfered meanwhile."""
    before = read_counters()
    noise = judge_noise(measure_noise(protocol))
    return noise, interference(before, read_counters())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _each(paths: Iterable[Path]) -> list[str]:
    return sorted({text for path in paths if (text := _read(path))})


def _governor(cpus: Path) -> Condition | None:
    found = _each(cpus.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    if not found:
        return None
    problem = "" if found == ["performance"] else "clocks follow the load; `cpupower frequency-set -g performance`"
    return Condition("governor", ", ".join(found), problem)


def _boost(cpus: Path) -> Condition | None:
    off, on = _read(cpus / "intel_pstate/no_turbo"), _read(cpus / "cpufreq/boost")
    if not off and not on:
        return None
    active = off == "0" if off else on == "1"
    return Condition("boost", "on" if active else "off", "clocks follow temperature and neighbours; switch it off" if active else "")


def _quota(root: Path, cores: int) -> Condition:
    limit, _, period = _read(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if not limit:
        base = root / "sys/fs/cgroup/cpu"
        limit, period = _read(base / "cpu.cfs_quota_us"), _read(base / "cpu.cfs_period_us")
    try:
        quota = int(limit) / int(period) if int(limit) > 0 else math.inf
    except (ValueError, ZeroDivisionError):
        quota = math.inf
    if math.isinf(quota):
        return Condition("quota", f"none, {cores} cores")
    problem = "" if quota >= cores else f"more threads than the quota are stopped now and then; use --threads {max(1, int(quota))}"
    return Condition("quota", f"{quota:g} of {cores} cores", problem)


def _load(root: Path, cores: int) -> Condition | None:
    try:
        load = float(_read(root / "proc/loadavg").split()[0])
    except (ValueError, IndexError):
        return None
    problem = "others compute at the same time; wait, or stop them" if load > MAX_LOAD * cores else ""
    return Condition("load", f"{load:g} on {cores} cores", problem)


def _smt(cpus: Path) -> Condition | None:
    text = _read(cpus / "smt/active")
    if text not in ("0", "1"):
        return None
    problem = "whoever runs on a core's other half slows it down; pin to whole cores, or switch it off" if text == "1" else ""
    return Condition("SMT", "on" if text == "1" else "off", problem)


def _clock(root: Path) -> Condition | None:
    name = _read(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    if not name:
        return None
    return Condition("timer", name, "reading it takes microseconds; boot with tsc" if name in _SLOW_CLOCKS else "")


def _swap(root: Path) -> Condition | None:
    sizes = {}
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        if key in ("SwapTotal", "SwapFree") and value.split()[:1]:
            sizes[key] = int(value.split()[0])
    if len(sizes) < 2:
        return None
    used = sizes["SwapTotal"] - sizes["SwapFree"]
    return Condition("swap in use", f"{used / 1024:.0f} MiB", "weights may lie on disk; free memory" if used > 64 * 1024 else "")


def main(arguments: list[str]) -> int:
    """The child: two equal programs, block by block as the gate measures, their log ratios as JSON on its output.

    Args:
        arguments: quads, seconds and least calls of a block, seconds of warm-up, number of the process.
    """
    quads, min_calls, number = (int(arguments[index]) for index in (0, 2, 4))
    block_s, warmup_s = float(arguments[1]), float(arguments[3])
    rng = np.random.default_rng(number)
    sides = [rng.normal(size=(2, 192, 192)).astype(np.float32) for _ in range(2)]
    calls = [partial(np.matmul, *side) for side in sides]
    for call in calls:
        time_block(call, warmup_s, 3)
    effects = []
    for _ in range(quads):
        order = quad_order(bool(rng.random() < 0.5))
        for pair in (order[:2], order[2:]):
            blocks = {side: time_block(calls[side], block_s, min_calls) for side in pair}
            effects.append(pair_effect(blocks[0], blocks[1], 0.5))
    sys.stdout.write(json.dumps(effects))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
