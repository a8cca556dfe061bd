"""Many limits in one job: Holm's correction, so that the job and not only each limit keeps its false-alarm rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from kopt.check.judge import Finding, Result
from kopt.check.verdict import CONFIDENCE, Verdict

JOB_ERROR = 1 - CONFIDENCE
"""How often a job in which nothing became slower may fail."""


def holm(p_values: Sequence[float], error: float = JOB_ERROR) -> list[bool]:
    """Which hypotheses are rejected when all of them together may be rejected wrongly this often.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        if p_values[index] > error / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def is_doubtful(finding: Finding, size: int) -> bool:
    """Whether a failure might not stand among ``size`` limits, so that more should be measured."""
    return finding.verdict is Verdict.FAIL and finding.p_value > JOB_ERROR / max(1, size)


def correct(results: Sequence[Result]) -> tuple[Result, ...]:
    """The results of a job; failures that chance alone shows among so many limits become inconclusive.

    Limits judged by statistics count, those that were not measured or are plain numbers (sizes, memory, load time, accuracy) do not.
    """
    family = [number for number, result in enumerate(results) if not math.isnan(result.p_value)]
    kept = dict(zip(family, holm([results[number].p_value for number in family]), strict=True))
    return tuple(
        _demoted(result, len(family)) if result.verdict is Verdict.FAIL and not kept.get(number, True) else result
        for number, result in enumerate(results)
    )


def _demoted(result: Result, size: int) -> Result:
    note = f"over the limit, but among {size} limits chance alone shows that; check this artifact by itself"
    return replace(result, verdict=Verdict.INCONCLUSIVE, note=note)
