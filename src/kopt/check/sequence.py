"""How much to measure: until the verdict is clear, doubling the pairs meanwhile, within the time of one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from kopt.check.judge import MIN_PROCESSES, judge_regression
from kopt.check.measure_pairs import PairProtocol, ProcessRun
from kopt.check.verdict import Verdict

Measure: TypeAlias = Callable[[int, bool, float], ProcessRun]
"""Number of the run, whether the baseline runs beside the candidate, and the longest block in seconds -> what was measured."""

MAX_LOOKS = 3
"""20, 40 and 80 pairs by default."""

MAX_PROCESSES_ALONE = 10
_SHARE_OF_BLOCKS = 0.35  # of the time, for the blocks of the first look; the confirmation gets as much, starting processes the rest


class MeasuringTime:
    """Measures one model at one batch and keeps to its time."""

    def __init__(self, measure: Measure, protocol: PairProtocol, time_limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._measure = measure
        self._protocol = protocol
        self._clock = clock
        self._deadline = clock() + time_limit_s
        self._slowest_s = 0.0
        self._count = 0
        share = _SHARE_OF_BLOCKS * time_limit_s / (protocol.processes * protocol.quads * 4)
        self._max_block_s = max(min(protocol.block_s, protocol.max_block_s), min(protocol.max_block_s, share))

    def regression(self, max_regression: float, seed: int) -> tuple[tuple[ProcessRun, ...], tuple[ProcessRun, ...]]:
        """Runs beside the baseline, and those that confirm a slowdown: none unless one was seen."""
        first: list[ProcessRun] = []
        wanted = self._protocol.processes
        for _ in range(MAX_LOOKS):
            while len(first) < wanted and (not first or self._fits(1 + min(len(first) + 1, self._protocol.processes))):
                first.append(self._run(beside_baseline=True))
            # Before any confirmation a slowdown is at best inconclusive, so both lead to more measuring.
            seen = judge_regression(first, first, max_regression, seed=seed, protocol=self._protocol)
            if seen.verdict is not Verdict.INCONCLUSIVE or len(first) < wanted:
                break
            wanted *= 2
        confirmation: list[ProcessRun] = []
        if seen.verdict is Verdict.FAIL:
            while len(confirmation) < min(len(first), self._protocol.processes) and self._fits(1):
                confirmation.append(self._run(beside_baseline=True))
        return tuple(first), tuple(confirmation)

    def alone(self, known: Sequence[ProcessRun], settled: Callable[[Sequence[ProcessRun]], bool]) -> tuple[ProcessRun, ...]:
        """Runs of the candidate alone, until ``settled`` says of all its runs that they suffice."""
        found: list[ProcessRun] = []
        while len(found) < MAX_PROCESSES_ALONE:
            runs = (*known, *found)
            if (len(runs) >= MIN_PROCESSES and settled(runs)) or (runs and not self._fits(1)):
                break
            found.append(self._run(beside_baseline=False))
        return tuple(found)

    def _fits(self, runs: int) -> bool:
        return self._clock() + runs * self._slowest_s <= self._deadline

    def _run(self, *, beside_baseline: bool) -> ProcessRun:
        start = self._clock()
        run = self._measure(self._count, beside_baseline, self._max_block_s)
        self._count += 1
        self._slowest_s = max(self._slowest_s, self._clock() - start)
        return run
