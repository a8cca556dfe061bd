"""Three-valued verdicts on latency samples: pure functions of numbers and a seed.

A regression is judged on *pairs* of neighbouring blocks, one of each artifact, because drift and bursts of the machine hit
both halves alike. Samples inside a block depend on each other, so they are never pooled.
Source: simulated with drift, bursts and spikes (benchmarks/gate); comparing two sequential runs alarms falsely in 11-47 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from statistics import NormalDist, median
from typing import TypeAlias

import numpy as np

NOISE_FLOOR = 0.02
"""A slowdown whose lower bound is not above this is not called one."""

MIN_EFFECT = 0.03
"""... nor one whose estimate is below this."""

# A failure is a lower bound and an estimate above their bars: the two above at the default limit of 5 %, and as far below a larger one as
# this, so that a slowdown of exactly the limit is found. A failure has a second look, so only the upper bound is widened.
_BAR_BELOW_LIMIT = 0.03
_ESTIMATE_BELOW_LIMIT = 0.02

CONFIDENCE = 0.99
BOOTSTRAP_DRAWS = 2000
MAX_P99_SAMPLES = 5000

MIN_CALLS_FOR_SPREAD = 5
"""Quartiles of fewer calls say nothing."""

LEAST_SPREAD = 1e-3
"""Unevenness taken for granted, so that calls that differ by the clock's own steps are not weighed against each other."""

Effects: TypeAlias = Sequence[Sequence[float]]  # log ratios, one list per process


class Verdict(StrEnum):
    """What the evidence supports."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @classmethod
    def worst(cls, verdicts: Sequence[Verdict]) -> Verdict:
        """FAIL before INCONCLUSIVE before PASS; PASS of nothing."""
        order = (cls.FAIL, cls.INCONCLUSIVE)
        return next((verdict for verdict in order if verdict in verdicts), cls.PASS)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate against a baseline.

    Attributes:
        quantile: which latency quantile was compared, in 0..1.
        effect, lower, upper: relative change of the candidate (0.05 is 5 % slower) and its one-sided bounds.
        num_pairs, num_processes: evidence behind it.
        verdict: FAIL means slower beyond doubt; PASS means shown to be within the limit.
        slower: whether the evidence clears the bars of a failure, even if the upper bound lies within the limit.
        p_value: how probable such an estimate is if the truth lay at the bar that a failure has to clear.
        pairs_needed: pairs that would settle an inconclusive comparison at this noise, 0 otherwise.
    """

    quantile: float
    effect: float
    lower: float
    upper: float
    num_pairs: int
    num_processes: int
    verdict: Verdict
    slower: bool
    p_value: float
    pairs_needed: int = 0


@dataclass(frozen=True, slots=True)
class LimitResult:
    """A quantile of one artifact against an absolute limit.

    Attributes:
        value, lower, upper: the quantile and its order-statistic interval, in the samples' unit; NaN when not estimable.
        num_samples: evidence behind it.
        verdict: the outcome.
        p_value: how probable so many samples over the limit are if the quantile lay at it.
        samples_needed: further samples that could settle it, 0 when settled.
    """

    value: float
    lower: float
    upper: float
    num_samples: int
    verdict: Verdict
    p_value: float = 1.0
    samples_needed: int = 0


def pair_effect(baseline: Sequence[float], candidate: Sequence[float], quantile: float) -> float:
    """ln(q(candidate) / q(baseline)) of two neighbouring blocks."""
    if quantile == 0.5:  # numpy takes much longer for blocks of ten calls
        return math.log(median(candidate) / median(baseline))
    return math.log(float(np.quantile(candidate, quantile)) / float(np.quantile(baseline, quantile)))


def spread(block: Sequence[float]) -> float:
    """How uneven the calls of a block are: the logarithm of the ratio of its quartiles; NaN for too few calls to tell."""
    if len(block) < MIN_CALLS_FOR_SPREAD:
        return math.nan
    ordered = sorted(block)
    low, high = len(ordered) // 4, -(len(ordered) // 4) - 1
    return math.log(ordered[high] / ordered[low])


def calmness(pairs: Sequence[Sequence[tuple[Sequence[float], Sequence[float]]]]) -> list[list[float]]:
    """Weights of pairs (baseline's calls, candidate's calls), one list per process: 1/4 for a usually even pair, at most 1.

    A pair counts less when the calls of *both* halves are uneven: that is the machine's doing, and what an artifact does by itself
    must not take weight from it. A weight follows from neither half's level, so it favours no verdict.
    """
    uneven = [[min(spread(baseline), spread(candidate)) for baseline, candidate in process] for process in pairs]
    known = [one for process in uneven for one in process if not math.isnan(one)]
    usual = max(median(known), LEAST_SPREAD) if known else LEAST_SPREAD
    return [[0.25 if math.isnan(one) else (usual / (usual + one)) ** 2 for one in process] for process in uneven]


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Medians of ascending values f64 (n,) under each row of weights f64 (rows, n), as f64 (rows,).

    Where exactly half of the weight lies on either side, the mean of the two values there.
    """
    reached = np.cumsum(weights, axis=1)
    half = reached[:, -1:] / 2
    slack = 1e-9 * half
    return np.asarray(values[(reached >= half - slack).argmax(axis=1)] + values[(reached > half + slack).argmax(axis=1)]) / 2


def bootstrap_medians(effects: Effects, seed: int, draws: int = BOOTSTRAP_DRAWS, weights: Effects | None = None) -> np.ndarray:
    """Medians of resampled effects, f64 (draws,): processes are drawn first, then pairs within each.

    Two levels, because a process keeps its memory layout: its pairs are alike in ways that other processes' are not.
    """
    given = tuple(tuple(group) for group in weights if len(group)) if weights is not None else None
    return _bootstrap(tuple(tuple(group) for group in effects if len(group)), given, seed, draws)


@lru_cache(maxsize=16)  # the same runs are looked at while measuring and for the verdict
def _bootstrap(groups: tuple[tuple[float, ...], ...], weights: tuple[tuple[float, ...], ...] | None, seed: int, draws: int) -> np.ndarray:
    """Draws are counted by effect, so that a resample is a row of weights of the ascending effects."""
    rng = np.random.default_rng(seed)
    flat = np.array([effect for group in groups for effect in group], float)
    given = np.ones(flat.size) if weights is None else np.array([weight for group in weights for weight in group], float)
    order = np.argsort(flat, kind="stable")
    place = np.empty(flat.size, np.intp)
    place[order] = np.arange(flat.size)
    lengths = np.array([len(group) for group in groups])
    starts, width = np.cumsum(lengths) - lengths, int(lengths.max())
    rows = rng.integers(len(groups), size=(draws, len(groups)))
    drawn = (rng.random((draws, len(groups), width)) * lengths[rows][:, :, None]).astype(np.intp)
    drawn += starts[rows][:, :, None]
    cells = place.take(drawn)
    cells += (flat.size * np.arange(draws))[:, None, None]
    kept = cells.ravel() if (lengths == width).all() else cells[np.arange(width)[None, None, :] < lengths[rows][:, :, None]]
    counts = np.bincount(kept, minlength=draws * flat.size).reshape(draws, flat.size)
    medians = weighted_median(flat[order], counts * given[order])
    medians.flags.writeable = False
    return medians


def tail_of_t(distance: float, error: float, degrees: int) -> float:
    """How probable it is to see an estimate this far above a bar, or farther, if the truth lay at the bar (Student's t).

    Args:
        distance: of the estimate above the bar.
        error: its standard error; with none at all, any distance settles it.
        degrees: of freedom, processes less one.
    """
    if degrees < 1:
        return 1.0
    if error <= 0:
        return 0.0 if distance > 0 else 1.0
    from scipy.special import stdtr

    return float(stdtr(degrees, -distance / error))


def reach(confidence: float, num_processes: int) -> float:
    """How many bootstrap errors a bound must lie away from the estimate; 0.0 for one process, whose own bounds are all there is.

    A bootstrap of few processes is too sure of itself: its spread is too small by the root of (n - 1) / n.
    """
    if num_processes < 2:
        return 0.0
    return NormalDist().inv_cdf(confidence) * math.sqrt(num_processes / (num_processes - 1))


def compare(
    effects: Effects,
    *,
    weights: Effects | None = None,
    quantile: float = 0.5,
    max_regression: float = 0.05,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Judge log ratios of pairs: PASS, shown to be within ``max_regression``, when the upper bound is below it.

    Args:
        effects: one list of ``pair_effect`` values per process.
        weights: of the effects, in the same order (``calmness``); equal ones by default.
        quantile: of the effects, for the record.
        max_regression: the slowdown still allowed, 0.05 for 5 %.
        confidence: of each one-sided bound.
        seed: of the bootstrap; equal samples and seeds give equal results.

    Raises:
        ValueError: no pair at all.
    """
    flat = np.array([effect for group in effects for effect in group], float)
    if not flat.size:
        raise ValueError("no pairs to compare")
    medians = bootstrap_medians(effects, seed, weights=weights)
    lower, upper = (float(bound) for bound in np.quantile(medians, [1 - confidence, confidence]))
    order = np.argsort(flat, kind="stable")
    given = np.ones(flat.size) if weights is None else np.array([weight for group in weights for weight in group], float)
    estimate = float(weighted_median(flat[order], given[None, order])[0])
    num_processes = sum(map(bool, effects))
    upper = max(upper, estimate + reach(confidence, num_processes) * float(medians.std()))
    limit = math.log1p(max_regression)
    bar = max(math.log1p(NOISE_FLOOR), limit - _BAR_BELOW_LIMIT)
    least = max(math.log1p(MIN_EFFECT), limit - _ESTIMATE_BELOW_LIMIT)
    slower = lower > bar and estimate >= least
    verdict = Verdict.PASS if upper < limit else Verdict.FAIL if slower else Verdict.INCONCLUSIVE
    needed = _pairs_needed(flat.size, estimate, lower, upper, limit) if verdict is Verdict.INCONCLUSIVE else 0
    return Comparison(
        quantile,
        math.expm1(estimate),
        math.expm1(lower),
        math.expm1(upper),
        int(flat.size),
        num_processes,
        verdict,
        slower,
        tail_of_t(estimate - bar, float(medians.std()), num_processes - 1),
        needed,
    )


def _pairs_needed(num_pairs: int, estimate: float, lower: float, upper: float, limit: float) -> int:
    """Pairs at which the interval, shrinking with the root of their number, would clear the nearer bar."""
    half = max((upper - lower) / 2, 1e-6)
    margin = max(abs(limit - estimate), abs(estimate - math.log1p(NOISE_FLOOR)), 1e-3)
    return math.ceil(max(num_pairs * (half / margin) ** 2, num_pairs * 2))


def quantile_interval(samples: Sequence[float], quantile: float, confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free two-sided interval of a quantile from order statistics; infinite where ranks run out."""
    ordered = np.sort(np.asarray(samples, float))
    below = _binomial_cdf(ordered.size, quantile)
    tail = (1 - confidence) / 2
    low = int(np.searchsorted(below, tail, side="right"))  # P(Bin < low) <= tail
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    lower = float(ordered[low - 1]) if low >= 1 else -math.inf
    upper = float(ordered[high - 1]) if high <= ordered.size else math.inf
    return lower, upper


def judge_limit(samples: Sequence[float], quantile: float, limit: float, *, confidence: float = CONFIDENCE) -> LimitResult:
    """Judge "quantile <= limit" by counting the samples over the limit.

    With ``n`` samples, ``t`` of them over: PASS when seeing so few is improbable (<= 1 - confidence) if the true share over the
    limit were 1 - quantile; FAIL when seeing so many is. For p99 that asks for 459 samples with t = 0, 662 with 1, 1,307 with 5.
    Source: MLPerf LoadGen's early stopping, applied to an absolute limit.
    """
    values = np.asarray(samples, float)
    count = int(values.size)
    over = int((values > limit).sum())
    share = 1 - quantile
    cdf = _binomial_cdf(count, share)
    at_most = float(cdf[over]) if count else 1.0
    at_least = 1.0 if over == 0 else 1 - float(cdf[over - 1])
    if count and at_most <= 1 - confidence:
        verdict = Verdict.PASS
    elif count and at_least <= 1 - confidence:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.INCONCLUSIVE
    estimable = count * share >= 10 - 1e-9  # p99 from 1,000 samples on
    value = float(np.quantile(values, quantile)) if estimable else math.nan
    lower, upper = quantile_interval(samples, quantile) if estimable else (math.nan, math.nan)
    needed = 0 if verdict is not Verdict.INCONCLUSIVE else max(0, required_samples(quantile, over, confidence) - count)
    return LimitResult(value, lower, upper, count, verdict, at_least, needed)


def required_samples(quantile: float, num_over: int, confidence: float = CONFIDENCE) -> int:
    """Fewest samples with which ``num_over`` samples over the limit still pass."""
    low, high = num_over + 1, 2
    while _at_most(high, 1 - quantile, num_over) > 1 - confidence:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if _at_most(middle, 1 - quantile, num_over) <= 1 - confidence:
            high = middle
        else:
            low = middle + 1
    return low


def _at_most(count: int, share: float, over: int) -> float:
    return 1.0 if over >= count else float(_binomial_cdf(count, share)[over])


def _binomial_cdf(count: int, share: float) -> np.ndarray:
    """P(Bin(count, share) <= k) for k = 0..count, f64 (count + 1,), by logarithms of factorials."""
    if count == 0:
        return np.ones(1)
    factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, count + 1)))))
    k = np.arange(count + 1)
    log_pmf = factorial[count] - factorial[k] - factorial[count - k] + k * math.log(share) + (count - k) * math.log1p(-share)
    cdf: np.ndarray = np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
    return cdf
