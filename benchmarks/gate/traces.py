"""False alarms and power of the gate on traces: the real protocol and verdicts, only the machine is made up or replayed.

Usage: python benchmarks/gate/traces.py [--seconds 50] [--runs 10000] [--power-runs 200]

Continues results/traces.json where it stopped, or starts over when the code that decides is another; run it until it says that everything
is done. Equal versions give equal numbers.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import random
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import noise
from noise import CALL_S, Trace, traces

from kopt.check import change_points, family, judge, measure_pairs, sequence, steady, verdict
from kopt.check.family import correct
from kopt.check.judge import Finding, Result, judge_regression
from kopt.check.measure_pairs import MachineCounters, PairProtocol, ProcessRun, measure_sides
from kopt.check.sequence import MeasuringTime
from kopt.check.verdict import Verdict
from kopt.hardware import available_cores

RESULTS = Path(__file__).parent / "results" / "traces.json"
PROTOCOL = PairProtocol()
CALLS_OF_A_PROCESS = round(1.5 * (2 * PROTOCOL.max_warmup_s + 4 * PROTOCOL.quads * PROTOCOL.block_s) / CALL_S)
"""Drawn beforehand; more are drawn when they are used up."""

START_S = 4.0
LAYOUT = 0.004
"""How much a process's memory layout moves its latency, as a standard deviation."""

EFFECTS = (0.0, 0.05, 0.10, -0.05, -0.10)
CHUNK = 20
"""Runs that are done together; also a job of as many models."""

EMPTY = {"runs": 0, "outcomes": {}, "jobs_of_20": 0, "jobs_failed": 0, "failed_within_jobs": 0, "seconds": 0.0, "longest_s": 0.0}


@dataclass
class Machine:
    """Fresh process pairs on one trace, on a clock that counts what they would take."""

    trace: Trace
    slowdown: float
    rng: np.random.Generator
    now: float = 0.0
    calls: np.ndarray = field(default_factory=lambda: np.empty(0))
    used: int = 0

    def measure(self, number: int, _: bool, max_block_s: float, within_s: float) -> ProcessRun:
        """One process pair, measured as ``measure_process`` does."""
        factors = np.exp(self.rng.normal(0, LAYOUT, 2)) * (1.0, 1.0 + self.slowdown)
        self.calls, self.used = self.trace(self.rng, CALLS_OF_A_PROCESS), 0
        deadline = self.now + within_s
        self.now += START_S
        pairs, states = measure_sides(
            {side: Side(self, factor) for side, factor in enumerate(factors)},
            PROTOCOL,
            max_block_s=max_block_s,
            coins=random.Random(int(self.rng.integers(2**32))),
            left_s=lambda: deadline - self.now,
            counters=lambda: MachineCounters(0, 0, 0),
        )
        return ProcessRun(pairs, 1.0, 10**8, number % 2 == 0, states[1], states[0])


@dataclass(frozen=True)
class Side:
    """One artifact on such a machine."""

    machine: Machine
    factor: float

    def block(self, block_s: float, min_calls: int, max_s: float | None = None) -> list[int]:
        """The next calls, as ``time_block`` makes them."""
        machine = self.machine
        hard_s = 10 * block_s if max_s is None else max_s
        most = max(min_calls, round(4 * block_s / CALL_S) + 1)
        while machine.used + most > machine.calls.size:
            machine.calls = np.concatenate([machine.calls, machine.trace(machine.rng, CALLS_OF_A_PROCESS)])
        times = machine.calls[machine.used : machine.used + most] * (self.factor * CALL_S)
        ends = np.cumsum(times)
        wanted = max(min_calls, int(np.searchsorted(ends, block_s)) + 1)
        count = min(wanted, int(np.searchsorted(ends, hard_s)) + 1, most)
        machine.used += count
        machine.now += float(ends[count - 1])
        return (times[:count] * 1e9).astype(int).tolist()


def gate_run(trace: Trace, slowdown: float, seed: list[int]) -> tuple[Finding, float]:
    """One run of the gate; its finding, and the seconds it would have taken."""
    machine = Machine(trace, slowdown, np.random.default_rng(seed))
    measuring = MeasuringTime(machine.measure, PROTOCOL, PROTOCOL.time_limit_s, lambda: machine.now)
    first, confirmation = measuring.regression(0.05, seed[-1])
    return judge_regression(first, confirmation, 0.05, seed=seed[-1], protocol=PROTOCOL), machine.now


def reason(finding: Finding) -> str:
    """Why a finding is what it is, without its numbers."""
    if finding.verdict is not Verdict.INCONCLUSIVE:
        return finding.verdict.value
    known = ("no steady state", "interfered", "would settle it", "no time to confirm", "did not confirm", "too few")
    return next((text for text in known if text in finding.note), "other")


def chunk(name: str, slowdown: float, start: int) -> list[tuple[Finding, float]]:
    """Runs from number ``start`` on, each seeded by its trace, effect and number."""
    seeds = ([zlib.crc32(name.encode()), round(1e4 * (1 + slowdown)), number] for number in range(start, start + CHUNK))
    return [gate_run(traces()[name], slowdown, seed) for seed in seeds]


def count(cell: dict[str, Any], runs: list[tuple[Finding, float]]) -> None:
    """Add a chunk to its cell; a chunk is also one job of as many models."""
    findings = [finding for finding, _ in runs]
    cell["runs"] += len(runs)
    cell["seconds"] = round(cell["seconds"] + sum(seconds for _, seconds in runs), 1)
    cell["longest_s"] = max(cell["longest_s"], *(round(seconds, 1) for _, seconds in runs))
    cell["outcomes"] = dict(sorted((Counter(cell["outcomes"]) + Counter(map(reason, findings))).items()))
    job = correct([Result("m", 1, "max_regression", one.verdict, 0.05, p_value=one.p_value) for one in findings])
    cell["jobs_of_20"] += 1
    cell["jobs_failed"] += any(one.verdict is Verdict.FAIL for one in job)
    cell["failed_within_jobs"] += sum(one.verdict is Verdict.FAIL for one in job)


def one_round(cells: dict[str, dict[str, Any]], options: argparse.Namespace) -> list[list[Any]]:
    """The next chunks of every cell that wants runs, those that lack most first: cell, trace, effect, first number."""
    found = []
    for name in traces():
        for effect in EFFECTS if options.only in name else ():
            key = f"{name} {effect:+.0%}"
            cell = cells.setdefault(key, EMPTY | {"outcomes": {}})
            wanted, chunks = (options.runs, 20) if effect == 0 else (options.power_runs, 1)
            starts = range(cell["runs"], min(wanted, cell["runs"] + chunks * CHUNK), CHUNK)
            found += [(start / wanted, key, name, effect, start) for start in starts]
    return [one for _, *one in sorted(found)]


def upper_bound(count: int, runs: int) -> float:
    """One-sided 95 % bound of a rate (Clopper and Pearson)."""
    from scipy.stats import beta

    return float(beta.ppf(0.95, count + 1, runs - count)) if count < runs else 1.0


def summary(cells: dict[str, dict[str, Any]]) -> str:
    """A line per cell."""
    lines = []
    for key, cell in cells.items():
        failed = cell["outcomes"].get("fail", 0)
        rest = ", ".join(f"{what} {count}" for what, count in cell["outcomes"].items() if what != "fail")
        lines.append(
            f"{key:32} {cell['runs']:6} runs  fail {failed / cell['runs']:8.2%} (at most {upper_bound(failed, cell['runs']):.2%})  "
            f"jobs of 20 failed {cell['jobs_failed']}/{cell['jobs_of_20']}  {cell['seconds'] / cell['runs']:.0f} s each; {rest}"
        )
    return "\n".join(lines)


def code() -> str:
    """A digest of what decides the results, comments and docstrings apart; other code starts over."""
    found = hashlib.sha256()
    modules = (change_points, family, judge, measure_pairs, sequence, steady, verdict, noise, sys.modules[__name__])
    for module in modules:
        tree = ast.parse(Path(str(module.__file__)).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = None
        found.update(ast.dump(tree).encode())
    return found.hexdigest()[:16]


def main() -> None:
    """Run what is missing until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=50, help="stop after so long; 0 only sums up")
    parser.add_argument("--runs", type=int, default=10_000, help="A/A runs of every trace")
    parser.add_argument("--power-runs", type=int, default=200, help="runs of every trace with another effect")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", default="", help="traces whose names contain this")
    options = parser.parse_args()
    digest = code()
    stored = json.loads(options.out.read_text()) if options.out.exists() else {}
    cells = stored["cells"] if stored.get("code") == digest or options.seconds <= 0 else {}
    options.out.parent.mkdir(exist_ok=True)
    end = time.monotonic() + options.seconds
    with ProcessPoolExecutor(available_cores()) as pool:
        while (planned := one_round(cells, options)) and time.monotonic() < end:
            for first in range(0, len(planned), 8):
                batch = planned[first : first + 8]
                if time.monotonic() >= end:
                    break
                for (key, *_), runs in zip(batch, pool.map(chunk, *zip(*(one[1:] for one in batch), strict=True)), strict=True):
                    count(cells[key], runs)
                done = {key: cell for key, cell in cells.items() if cell["runs"]}
                options.out.write_text(json.dumps({"protocol": "default", "code": digest, "cells": done}, indent=1) + "\n")
    print(summary({key: cell for key, cell in cells.items() if cell["runs"]}))
    print("there is more to run" if planned else "everything is done")


if __name__ == "__main__":
    main()
