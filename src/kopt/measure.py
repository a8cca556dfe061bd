"""Timing: samples of a bound call, quantiles with their evidence, and ratios of alternating blocks."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MIN_P99_SAMPLES = 1000
"""Below this p99 is not estimated: fewer than ten samples would lie above it."""
MIN_BLOCKS = 5
"""Below this an interval from resampled blocks says nothing."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a comparison is measured.

    Attributes:
        rounds: blocks of each side.
        block_s: how long a block lasts at least.
        min_calls: calls a block has at least.
        warmup_s: how long each side runs before the first block.
    """

    rounds: int = 8
    block_s: float = 0.25
    min_calls: int = 10
    warmup_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Measurement:
    """Every timed call, in order, as blocks of nanoseconds."""

    blocks_ns: tuple[tuple[int, ...], ...]

    @property
    def samples_ns(self) -> np.ndarray:
        """All samples, i64."""
        return np.array([sample for block in self.blocks_ns for sample in block], np.int64)

    @property
    def num_samples(self) -> int:
        """How many calls were timed."""
        return sum(len(block) for block in self.blocks_ns)

    def quantile_us(self, q: float) -> float | None:
        """A latency quantile in microseconds; None for p99 and above with too few samples."""
        if not self.num_samples or (q >= 0.99 and self.num_samples < MIN_P99_SAMPLES):
            return None
        return float(np.quantile(self.samples_ns, q)) / 1e3

    @property
    def p50_us(self) -> float:
        """The median in microseconds."""
        return float(np.median(self.samples_ns)) / 1e3


@dataclass(frozen=True, slots=True)
class Ratio:
    """Latency of one side over the other's, from neighbouring blocks.

    Attributes:
        value: median of the pairs' ratios of medians.
        lower, upper: two-sided 95 % bootstrap interval over pairs.
        num_pairs: pairs of blocks.
    """

    value: float
    lower: float
    upper: float
    num_pairs: int


def time_block(call: Callable[[], object], block_s: float, min_calls: int, max_s: float | None = None) -> list[int]:
    """Nanoseconds of single calls until both limits are met, at most ``max_s`` (ten times ``block_s``); the collector is off meanwhile."""
    samples: list[int] = []
    clock = time.perf_counter_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        limit, hard_limit = start + int(block_s * 1e9), start + int((10 * block_s if max_s is None else max_s) * 1e9)
        while True:
            before = clock()
            call()
            after = clock()
            samples.append(after - before)
            if (after >= limit and len(samples) >= min_calls) or (after >= hard_limit and len(samples) >= 1):
                return samples
    finally:
        if collecting:
            gc.enable()


def block_ratio(numerator: Measurement, denominator: Measurement, *, seed: int = 0, draws: int = 2000) -> Ratio:
    """Ratio of latencies of blocks that were measured side by side.

    Raises:
        ValueError: the two sides have no blocks, or not equally many.
    """
    pairs = list(zip(numerator.blocks_ns, denominator.blocks_ns, strict=True))
    if not pairs:
        raise ValueError("no blocks to compare")
    logs = np.array([np.log(np.median(a) / np.median(b)) for a, b in pairs])
    rng = np.random.default_rng(seed)
    medians = np.median(logs[rng.integers(len(logs), size=(draws, len(logs)))], axis=1)
    lower, upper = np.exp(np.quantile(medians, [0.025, 0.975]))
    return Ratio(float(np.exp(np.median(logs))), float(lower), float(upper), len(pairs))


def unpaired_ratio(numerator: Measurement, denominator: Measurement, *, seed: int = 0) -> Ratio | None:
    """Ratio of the medians of two separate runs; None with fewer than five blocks on a side.

    The 95 % interval comes from the noise between blocks of one run. What changed from one run to the other is in the ratio itself.
    """
    sides = [side for side in (numerator, denominator) if len(side.blocks_ns) >= MIN_BLOCKS and all(side.blocks_ns)]
    if len(sides) < 2:
        return None
    rng = np.random.default_rng(seed)
    first, second = (_drawn_quantiles(side, 0.5, rng) for side in sides)
    lower, upper = np.quantile(first / second, [0.025, 0.975])
    return Ratio(numerator.p50_us / denominator.p50_us, float(lower), float(upper), min(len(side.blocks_ns) for side in sides))


def quantile_interval_us(measurement: Measurement, q: float, *, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of a latency quantile in microseconds; None where that is not estimable, and with fewer than five blocks."""
    few = len(measurement.blocks_ns) < MIN_BLOCKS or not all(measurement.blocks_ns)
    if few or measurement.quantile_us(q) is None:
        return None
    lower, upper = np.quantile(_drawn_quantiles(measurement, q, np.random.default_rng(seed)), [0.025, 0.975]) / 1e3
    return float(lower), float(upper)


def _drawn_quantiles(measurement: Measurement, q: float, rng: np.random.Generator, draws: int = 400) -> np.ndarray:
    """The quantile in ns of ``draws`` resamplings, f64: whole blocks are drawn, since calls of one block share its conditions."""
    blocks = [np.sort(np.array(block, np.int64)) for block in measurement.blocks_ns]
    kept = [block[:: max(1, len(block) // 4000)] for block in blocks]  # so many order statistics are enough
    values = np.concatenate(kept)
    weights = np.concatenate([np.full(len(part), len(block) / len(part)) for part, block in zip(kept, blocks, strict=True)])
    owner = np.repeat(np.arange(len(blocks)), [len(part) for part in kept])
    order = np.argsort(values, kind="stable")
    values, weights, owner = values[order], weights[order], owner[order]
    found = []
    for _ in range(draws):
        counts = np.bincount(rng.integers(len(blocks), size=len(blocks)), minlength=len(blocks))
        reached = np.cumsum(weights * counts[owner])
        found.append(values[np.searchsorted(reached, q * reached[-1])])
    return np.array(found, np.float64)


def abba(rounds: int) -> Sequence[tuple[int, int]]:
    """The order of the two sides in each round: (0, 1), (1, 0), ... so that drift hits both alike."""
    return [(0, 1) if k % 2 == 0 else (1, 0) for k in range(rounds)]


def knee_index(throughputs: Sequence[float], share: float = 0.9) -> int | None:
    """Index of the smallest batch with nearly the highest throughput: beyond it calls only take longer. None for no batches.

    Args:
        throughputs: rows per second by growing batch.
        share: of the highest throughput that is nearly enough.
    """
    return next((index for index, rate in enumerate(throughputs) if rate >= share * max(throughputs)), None)
