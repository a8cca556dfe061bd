"""Races of whole programs, and the curve of latency and throughput over the batch.

Programs that are equally fast within the noise of the machine are told apart by interleaved blocks only: whatever else the
machine does meanwhile hits all of them alike. The slower half leaves after every rung, and blocks grow for those that stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from kopt.errors import KoptError
from kopt.measure import Measurement, knee_index

TIE = 0.01
"""Contenders closer than this are equal; the one named first wins."""


class Contender(Protocol):
    """A program in a process of its own that sleeps while others run."""

    def block(self, block_s: float, min_calls: int, max_s: float) -> Sequence[int]:
        """Time calls for a while; nanoseconds each.

        Raises:
            KoptError: it failed, and is out of the race.
        """
        ...


@dataclass(frozen=True, slots=True)
class RaceSettings:
    """How a race is run.

    Attributes:
        rounds: blocks of each contender in a rung.
        block_s, min_calls, max_s: of the first rung's blocks; the first doubles with every rung.
        keep: share that stays after a rung.
    """

    rounds: int = 4
    block_s: float = 0.1
    min_calls: int = 3
    max_s: float = 5.0
    keep: float = 0.5


@dataclass(frozen=True)
class RaceResult:
    """How it ended.

    Attributes:
        order: contenders that finished, fastest first.
        ratios: of each in ``order``, its time over the winner's in the last rung both ran in.
        measurements: all blocks of each contender.
        failures: what was wrong with the others.
    """

    order: tuple[int, ...]
    ratios: tuple[float, ...]
    measurements: tuple[Measurement, ...]
    failures: dict[int, str] = field(default_factory=dict)


def race(contenders: Sequence[Contender], settings: RaceSettings | None = None, is_over: Callable[[], bool] = lambda: False) -> RaceResult:
    """Find the fastest by successive halving over interleaved blocks.

    Args:
        contenders: in the order of preference among equals.
        settings: how.
        is_over: asked before every round after the first; when it says so, the race ends with what is known.
    """
    settings = settings or RaceSettings()
    blocks: list[list[tuple[int, ...]]] = [[] for _ in contenders]
    failures: dict[int, str] = {}
    running = list(range(len(contenders)))
    out: list[int] = []
    scores: dict[int, float] = dict.fromkeys(running, 0.0)
    block_s = settings.block_s
    stopped = False
    while running and not stopped:
        rounds: list[dict[int, float]] = []
        for number in range(settings.rounds):
            if stopped := bool(rounds) and is_over():
                break
            order = running if number % 2 == 0 else running[::-1]
            found = {index: one for index in order if (one := _block(contenders[index], index, block_s, settings, failures))}
            for index, samples in found.items():
                blocks[index].append(samples)
            rounds.append({index: median(samples) for index, samples in found.items()})
            running = [index for index in running if index not in failures]
        ranked = _ranked(running, rounds, scores)
        if len(ranked) <= 1 or stopped:
            running = ranked
            break
        kept = ranked[: max(1, math.ceil(len(ranked) * settings.keep))]
        kept = kept[:-1] if len(kept) == len(ranked) else kept
        out = [*ranked[len(kept) :], *out]
        running = sorted(kept)
        block_s *= 2
        if len(running) == 1:
            break
    order_found = (*running, *out)
    ratios = tuple(math.exp(scores[index] - scores[order_found[0]]) for index in order_found)
    return RaceResult(order_found, ratios, tuple(Measurement(tuple(one)) for one in blocks), failures)


def _block(contender: Contender, index: int, block_s: float, settings: RaceSettings, failures: dict[int, str]) -> tuple[int, ...]:
    try:
        return tuple(contender.block(block_s, settings.min_calls, settings.max_s))
    except KoptError as error:
        failures[index] = error.what
        return ()


def _ranked(running: Sequence[int], rounds: Sequence[dict[int, float]], scores: dict[int, float]) -> list[int]:
    """Fastest first; each round is a comparison of its own, so that drift between rounds does not count."""
    if not running:
        return []
    for index in running:
        logs = []
        for found in rounds:
            common = [found[one] for one in running if one in found]
            if index in found:
                logs.append(math.log(found[index] / min(common)))
        scores[index] = median(logs) if logs else 0.0
    first = min(running, key=lambda index: scores[index])
    tied = [index for index in running if scores[index] - scores[first] <= TIE]
    winner = min(tied)
    return [winner, *sorted((index for index in running if index != winner), key=lambda index: (scores[index], index))]


@dataclass(frozen=True, slots=True)
class BatchPoint:
    """One point of the curve.

    Attributes:
        batch: rows per call.
        p50_us: of one call.
    """

    batch: int
    p50_us: float

    @property
    def throughput_per_s(self) -> float:
        """Rows per second."""
        return self.batch / (self.p50_us / 1e6)


def batch_curve(
    measure: Callable[[int], float | None], batches: Sequence[int], is_over: Callable[[], bool] = lambda: False
) -> list[BatchPoint]:
    """Measure growing batches until throughput falls twice in a row, one fails, or time is over.

    Args:
        measure: median latency in microseconds at a batch; None when it fails, for instance for lack of memory.
        batches: to be tried, in growing order; the first is measured in any case.
        is_over: asked before every batch after the first.
    """
    points: list[BatchPoint] = []
    falls = 0
    for batch in batches:
        if points and (falls >= 2 or is_over()):
            break
        time_us = measure(batch)
        if time_us is None:
            break
        points.append(BatchPoint(batch, time_us))
        best = max(point.throughput_per_s for point in points)
        falls = 0 if points[-1].throughput_per_s >= best * (1 - TIE) else falls + 1
    return points


def pareto(points: Sequence[BatchPoint]) -> list[BatchPoint]:
    """Points to which no other is better in latency and throughput at once, by growing latency."""
    front: list[BatchPoint] = []
    for point in sorted(points, key=lambda one: (one.p50_us, -one.throughput_per_s)):
        if not front or point.throughput_per_s > front[-1].throughput_per_s * (1 + TIE):
            front.append(point)
    return front


def knee(points: Sequence[BatchPoint], share: float = 0.9) -> BatchPoint | None:
    """The smallest batch with nearly the highest throughput: beyond it calls only take longer."""
    ordered = sorted(points, key=lambda point: point.batch)
    index = knee_index([point.throughput_per_s for point in ordered], share)
    return None if index is None else ordered[index]


def chosen_batches(points: Sequence[BatchPoint], objective: str) -> tuple[int, ...]:
    """The batches worth compiling for "latency" (the quickest call), "throughput" (the knee) or "pareto" (the whole front)."""
    if not points:
        return ()
    if objective == "latency":
        return (min(points, key=lambda point: point.p50_us).batch,)
    if objective == "throughput":
        found = knee(points, 0.97)
        return (found.batch,) if found else ()
    return tuple(sorted(point.batch for point in pareto(points)))
