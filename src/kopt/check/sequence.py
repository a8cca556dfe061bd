"""How much to measure: until the verdict is clear, doubling the pairs meanwhile, within the time of one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from kopt.check.judge import MIN_PROCESSES, first_sight, is_refuted, judge_regression
from kopt.check.measure_pairs import PairProtocol, ProcessRun
from kopt.check.verdict import Verdict

Measure: TypeAlias = Callable[[int, bool, float, float], ProcessRun]
"""Number of the run, whether the baseline runs beside the candidate, seconds of the longest block, seconds left -> what was measured."""

MAX_LOOKS = 3
"""80, 160 and 320 pairs by default."""

MAX_PROCESSES_ALONE = 10
_SHARE_OF_BLOCKS = 0.35  # of the time, for the blocks of the first look; the confirmation gets as much, starting processes the rest


class MeasuringTime:
    """Measures one model at one batch and keeps to its time."""

    def __init__(self, measure: Measure, protocol: PairProtocol, time_limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._measure = measure
        self._protocol = protocol
        self._clock = clock
        self._start = clock()
        self._deadline = self._start + time_limit_s
        self._slowest_s = 0.0
        self._count = 0
        share = _SHARE_OF_BLOCKS * time_limit_s / (protocol.processes * protocol.quads * 4)
        self._max_block_s = max(min(protocol.block_s, protocol.max_block_s), min(protocol.max_block_s, share))

    def regression(self, max_regression: float, seed: int) -> tuple[tuple[ProcessRun, ...], tuple[ProcessRun, ...]]:
        """Runs beside the baseline, and those that confirm a slowdown: none unless one was seen."""
        first: list[ProcessRun] = []
        wanted = self._protocol.processes
        for _ in range(MAX_LOOKS):
            while len(first) < wanted and (not first or self._fits(reserve=min(len(first), MIN_PROCESSES))):
                first.append(self._run(beside_baseline=True))
            seen = first_sight(first, max_regression, seed=seed, protocol=self._protocol)
            if seen is not Verdict.INCONCLUSIVE or len(first) < wanted:
                break
            wanted *= 2
        return tuple(first), self._confirmation(first, max_regression, seed) if seen is Verdict.FAIL else ()

    def _confirmation(self, first: Sequence[ProcessRun], max_regression: float, seed: int) -> tuple[ProcessRun, ...]:
        """As many fresh processes as a first look has, and as many again where these neither confirm nor refute."""
        found: list[ProcessRun] = []
        for wanted in (min(len(first), self._protocol.processes), 2 * self._protocol.processes):
            while len(found) < wanted and self._fits():
                found.append(self._run(beside_baseline=True))
            seen = judge_regression(first, found, max_regression, seed=seed, protocol=self._protocol)
            if seen.verdict is Verdict.FAIL or is_refuted(found, max_regression, seed=seed, protocol=self._protocol):
                break
        return tuple(found)

    def alone(self, known: Sequence[ProcessRun], settled: Callable[[Sequence[ProcessRun]], bool]) -> tuple[ProcessRun, ...]:
        """Runs of the candidate alone, until ``settled`` says of all its runs that they suffice."""
        found: list[ProcessRun] = []
        while len(found) < MAX_PROCESSES_ALONE:
            runs = (*known, *found)
            if (len(runs) >= MIN_PROCESSES and settled(runs)) or (runs and not self._fits()):
                break
            found.append(self._run(beside_baseline=False))
        return tuple(found)

    def _fits(self, reserve: int = 0) -> bool:
        """Whether one more run ends in time even if it is the slowest, with as many usual ones after it."""
        usual = (self._clock() - self._start) / max(1, self._count)
        return self._clock() + self._slowest_s + reserve * usual <= self._deadline

    def _run(self, *, beside_baseline: bool) -> ProcessRun:
        start = self._clock()
        run = self._measure(self._count, beside_baseline, self._max_block_s, self._deadline - start)
        self._count += 1
        self._slowest_s = max(self._slowest_s, self._clock() - start)
        return run
