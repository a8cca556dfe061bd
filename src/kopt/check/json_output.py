"""The outcome as JSON with every raw sample: equal samples and seed give equal bytes. Documented in docs/checking.md."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kopt.check.gate import Outcome
from kopt.check.judge import Result
from kopt.check.measure_pairs import ProcessRun

SCHEMA = 1


def to_json(outcome: Outcome) -> str:
    """The outcome; numbers that do not exist are null."""
    content = {
        "schema": SCHEMA,
        "verdict": outcome.verdict.value,
        "machine": outcome.machine,
        "seed": outcome.seed,
        "results": [_result(result) for result in outcome.results],
        "samples": [
            {
                "model": samples.model,
                "batch": samples.batch,
                "first": _runs(samples.first),
                "confirmation": _runs(samples.confirmation),
                "alone": _runs(samples.alone),
            }
            for samples in outcome.samples
        ],
    }
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _result(result: Result) -> dict[str, Any]:
    content = asdict(result)
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in content.items()}


def _runs(runs: Sequence[ProcessRun]) -> list[dict[str, Any]]:
    return [asdict(run) for run in runs]
