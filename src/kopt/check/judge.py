"""From recorded samples to results, one per limit: pure functions, so that stored samples give the same verdicts again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kopt.check.measure_pairs import Pair, PairProtocol, ProcessRun
from kopt.check.steady import State, common_drift
from kopt.check.verdict import (
    CONFIDENCE,
    MAX_P99_SAMPLES,
    Comparison,
    Verdict,
    bootstrap_medians,
    calmness,
    compare,
    judge_limit,
    pair_effect,
    reach,
    tail_of_t,
)

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
CONFIRMING = 0.95
"""Confidence of the confirmation: beside a first look at 99 % a false alarm needs both, one of 2,000 looks."""

MIN_PROCESSES = 3
"""Fresh processes behind every absolute limit."""

MAX_DISCARDED = 0.3
MIN_BLOCKS = 10
UNSTEADY_SHARE = 0.8
"""Of the processes: where as many found no steady level, the artifact has none."""


@dataclass(frozen=True, slots=True)
class Result:
    """One limit judged.

    Attributes:
        model, batch, key: which limit of which artifact; batch 0 where it does not matter.
        verdict: the outcome.
        limit: in SI units, or a share.
        value, lower, upper: what was found with its bounds, in the limit's unit; NaN where there is nothing.
        num_pairs, num_samples: evidence behind it.
        note: why, and what would settle an inconclusive one.
        line: of the budget's table in its file.
        p_value: how probable such evidence of a failure is if the truth lay at the limit; NaN for what is no statistic.
    """

    model: str
    batch: int
    key: str
    verdict: Verdict
    limit: float
    value: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    num_pairs: int = 0
    num_samples: int = 0
    note: str = ""
    line: int = 0
    p_value: float = math.nan


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict before it is attached to a model."""

    verdict: Verdict
    value: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    num_pairs: int = 0
    num_samples: int = 0
    note: str = ""
    p_value: float = math.nan


def judge_regression(
    first: Sequence[ProcessRun], confirmation: Sequence[ProcessRun], max_regression: float, *, seed: int, protocol: PairProtocol
) -> Finding:
    """The median latency against the baseline's; a slowdown counts only when fresh processes show it again."""
    found, spoiled = _compare(first, max_regression, seed, protocol)
    if found is None:
        note = f"the machine interfered with {spoiled} pairs (throttling or steal); measure on a quieter one"
        return Finding(Verdict.INCONCLUSIVE, num_pairs=_num_pairs(first), note=note, p_value=1.0)
    if unsteady := no_steady_state(first, beside_baseline=True):
        return Finding(Verdict.INCONCLUSIVE, found.effect, found.lower, found.upper, found.num_pairs, note=unsteady, p_value=1.0)
    note = _note(found, max_regression)
    finding = Finding(found.verdict, found.effect, found.lower, found.upper, found.num_pairs, note=note, p_value=1.0)
    if found.verdict is not Verdict.FAIL:
        return finding
    again, _ = _compare(confirmation, max_regression, seed, protocol, CONFIRMING) if confirmation else (None, 0)
    together, _ = _compare([*first, *confirmation], max_regression, seed, protocol)
    # A slowdown near the limit may look just within it the second time: it is confirmed unless all pairs together are within it.
    if again is not None and again.slower and not (together and together.verdict is Verdict.PASS):
        looks = _looks(first, protocol) + _looks(confirmation, protocol) - 1
        p_value = min(1.0, looks * (together or found).p_value)
        if p_value <= 1 - CONFIDENCE:
            note = f"{note}; confirmed by {again.num_pairs} pairs in fresh processes ({again.effect:+.1%})"
            return replace(finding, note=note, p_value=p_value)
        note = f"slower, but {len(first)} and {len(confirmation)} processes are too few to be sure; raise --time-limit"
        return replace(finding, verdict=Verdict.INCONCLUSIVE, note=note, p_value=p_value)
    why = "there was no time to confirm it; raise --time-limit" if not confirmation else "fresh processes did not confirm it; run it again"
    return replace(finding, verdict=Verdict.INCONCLUSIVE, note=f"a slowdown was seen, but {why}")


def first_sight(first: Sequence[ProcessRun], max_regression: float, *, seed: int, protocol: PairProtocol) -> Verdict:
    """What runs show before anything is confirmed."""
    found, _ = _compare(first, max_regression, seed, protocol)
    return Verdict.INCONCLUSIVE if found is None or no_steady_state(first, beside_baseline=True) else found.verdict


def is_refuted(confirmation: Sequence[ProcessRun], max_regression: float, *, seed: int, protocol: PairProtocol) -> bool:
    """Whether fresh processes show by themselves that the artifact is within the limit, and nothing of a slowdown."""
    again, _ = _compare(confirmation, max_regression, seed, protocol)
    return again is not None and again.verdict is Verdict.PASS and not again.slower


def no_steady_state(runs: Sequence[ProcessRun], *, beside_baseline: bool) -> str:
    """Why a level is nothing to judge: a side did not hold one in most processes. Empty when it did.

    A single process does not count: a burst on the machine looks the same.
    """
    states = {"candidate": [run.candidate_warm_up for run in runs]}
    if beside_baseline:
        states["baseline"] = [run.baseline_warm_up for run in runs]
    for side, found in states.items():
        if (count := found.count(State.UNSTEADY)) >= max(2, UNSTEADY_SHARE * len(runs)):
            return f"no steady state: the {side} still changed its level after its warm-up in {count} of {len(runs)} processes"
    levels = [[_level(pair, beside_baseline=beside_baseline) for pair in run.pairs] for run in runs]
    if move := common_drift(levels):
        return f"no steady state: the candidate got {'slower' if move > 0 else 'faster'} while it was measured ({math.expm1(move):+.1%})"
    return ""


def _level(pair: Pair, *, beside_baseline: bool) -> float:
    """Logarithm of the candidate's median, relative to the baseline's where that ran beside it: the machine's own drift hits both."""
    return pair_effect(pair.baseline_ns if beside_baseline else [1], pair.candidate_ns, 0.5)


def _compare(
    runs: Sequence[ProcessRun], limit: float, seed: int, protocol: PairProtocol, confidence: float = CONFIDENCE
) -> tuple[Comparison | None, int]:
    """The comparison over undisturbed pairs, None when too many were disturbed; and how many were."""
    kept = [[pair for pair in run.pairs if not pair.disturbed] for run in runs]
    spoiled = _num_pairs(runs) - sum(map(len, kept))
    if spoiled > MAX_DISCARDED * _num_pairs(runs) or not any(kept):
        return None, spoiled
    effects = [[pair_effect(pair.baseline_ns, pair.candidate_ns, 0.5) for pair in pairs] for pairs in kept]
    weights = calmness([[(pair.baseline_ns, pair.candidate_ns) for pair in pairs] for pairs in kept])
    later = 1 - (1 - confidence) / 2  # looking again must not make a false alarm likelier
    confidence = confidence if len(runs) <= protocol.processes else later
    return compare(effects, weights=weights, max_regression=limit, confidence=confidence, seed=seed), spoiled


def _looks(runs: Sequence[ProcessRun], protocol: PairProtocol) -> int:
    """How often these runs were looked at, each time with twice as many."""
    return 1 + math.ceil(math.log2(max(1, len(runs) / protocol.processes)))


def _num_pairs(runs: Sequence[ProcessRun]) -> int:
    return sum(len(run.pairs) for run in runs)


def _note(found: Comparison, limit: float) -> str:
    if found.verdict is Verdict.PASS:
        return f"shown to be within {limit * 100:.3g} % of the baseline" if found.effect > 0 else "not slower than the baseline"
    if found.verdict is Verdict.FAIL:
        return "slower than the baseline"
    return f"about {found.pairs_needed} pairs would settle it; raise --time-limit or use a quieter machine"


def candidate_blocks(runs: Sequence[ProcessRun]) -> list[list[tuple[int, ...]]]:
    """The judged artifact's blocks, by process."""
    return [[pair.candidate_ns for pair in run.pairs] for run in runs]


def judge_absolute(key: str, limit: float, batch: int, runs: Sequence[ProcessRun], *, seed: int) -> Finding:
    """One limit that needs measuring and no baseline: p50, p90, p99, throughput, load_time or peak_memory."""
    if key == "throughput":
        return _throughput(limit, batch, runs, seed)
    if key in QUANTILES:
        return _tail(key, limit, runs) if key == "p99" else _quantile(key, limit, runs, seed)
    values = [run.load_s if key == "load_time" else float(run.peak_bytes) for run in runs]
    over = sum(value > limit for value in values)
    verdict = Verdict.PASS if over == 0 else Verdict.FAIL if over == len(values) else Verdict.INCONCLUSIVE
    if not values:
        verdict = Verdict.INCONCLUSIVE
    note = f"{over} of {len(values)} processes over the limit"
    median = float(np.median(values)) if values else math.nan
    return Finding(verdict, median, min(values, default=math.nan), max(values, default=math.nan), 0, len(values), note)


def _tail(key: str, limit: float, runs: Sequence[ProcessRun]) -> Finding:
    """A far quantile, by counting calls over the limit."""
    blocks = [block for process in candidate_blocks(runs) for block in process]
    samples = [sample / 1e9 for block in blocks for sample in thinned(block, max(1, MAX_P99_SAMPLES // len(blocks)))]
    found = judge_limit(samples, QUANTILES[key], limit)
    verdict, note = found.verdict, ""
    if len(blocks) < MIN_BLOCKS:  # calls of one block depend on each other
        verdict, note = Verdict.INCONCLUSIVE, f"{len(blocks)} blocks, {MIN_BLOCKS} are needed; raise --time-limit"
    elif verdict is Verdict.INCONCLUSIVE:
        note = f"{found.samples_needed} more calls could settle it" if found.samples_needed else "too close to the limit to tell"
    elif math.isnan(found.value):
        note = f"{key} itself is not estimable from {found.num_samples} calls"
    return Finding(verdict, found.value, found.lower, found.upper, len(blocks), found.num_samples, note, found.p_value)


def _quantile(key: str, limit: float, runs: Sequence[ProcessRun], seed: int) -> Finding:
    """A central quantile, at most ``limit``. Calls are not counted: those of one process are alike."""
    return _by_block(limit, runs, lambda block: float(np.quantile(block, QUANTILES[key])) / 1e9, seed)


def _throughput(limit: float, batch: int, runs: Sequence[ProcessRun], seed: int) -> Finding:
    """Rows per second, at least ``limit``."""
    return _by_block(limit, runs, lambda block: max(1, batch) * len(block) / sum(block) * 1e9, seed, at_least=True)


def _by_block(
    limit: float, runs: Sequence[ProcessRun], figure: Callable[[tuple[int, ...]], float], seed: int, *, at_least: bool = False
) -> Finding:
    """The median block's figure against a limit, with a bootstrap over processes and blocks.

    The bootstrap of few processes is too sure of itself, so a failure must stand a t test over processes too, at every look.
    """
    figures = [[figure(block) for block in process if block] for process in candidate_blocks(runs)]
    flat = [one for process in figures for one in process]
    if not flat:
        return Finding(Verdict.INCONCLUSIVE, note="nothing was measured", p_value=1.0)
    medians = bootstrap_medians(figures, seed)
    lower, upper = (float(bound) for bound in np.quantile(medians, [1 - CONFIDENCE, CONFIDENCE]))
    value, sign = float(np.median(flat)), -1 if at_least else 1
    margin = reach(CONFIDENCE, len(runs)) * float(medians.std())
    lower, upper = min(lower, value - margin), max(upper, value + margin)
    looks = max(1, len(runs) - MIN_PROCESSES + 1)
    p_value = min(1.0, looks * tail_of_t(sign * (value - limit), float(medians.std()), len(runs) - 1))
    verdict, note = Verdict.INCONCLUSIVE, "the interval holds the limit; raise --time-limit or use a quieter machine"
    if unsteady := no_steady_state(runs, beside_baseline=False):
        note, p_value = unsteady, 1.0
    elif (lower >= limit) if at_least else (upper <= limit):
        verdict, note = Verdict.PASS, ""
    elif (upper < limit) if at_least else (lower > limit):
        sure = p_value <= 1 - CONFIDENCE
        verdict, note = (Verdict.FAIL, "") if sure else (verdict, f"over the limit, but {len(runs)} processes differ; raise --time-limit")
    samples = sum(len(block) for process in candidate_blocks(runs) for block in process)
    return Finding(verdict, value, lower, upper, len(flat), samples, note, p_value)


def thinned(block: Sequence[int], most: int) -> Sequence[int]:
    """At most ``most`` calls of a block, evenly spread.

    Neighbouring calls depend on each other, so that more of them would only pretend to be more evidence.
    """
    return block if len(block) <= most else [block[index * len(block) // most] for index in range(most)]
