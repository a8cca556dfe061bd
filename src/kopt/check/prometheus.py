"""The outcome as a Prometheus textfile."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kopt.check.judge import Result
from kopt.check.verdict import Verdict

_VERDICTS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
_METRICS = {
    "kopt_check_value": "What was found, in seconds, rows per second, bytes or shares.",
    "kopt_check_limit": "The limit it was judged against.",
    "kopt_check_verdict": "0 pass, 1 fail, 3 inconclusive.",
}


def to_prometheus(results: Sequence[Result]) -> str:
    """Gauges by model, batch and key, for the node exporter's textfile collector; no timestamps, as it asks.

    Of several limits on one key the strictest verdict's is shown: series must not repeat.
    """
    strictest: dict[tuple[str, int, str], Result] = {}
    for result in results:
        other = strictest.get(series := (result.model, result.batch, result.key))
        if other is None or Verdict.worst([other.verdict, result.verdict]) is not other.verdict:
            strictest[series] = result
    lines = []
    for metric, meaning in _METRICS.items():
        lines += [f"# HELP {metric} {meaning}", f"# TYPE {metric} gauge"]
        for (model, batch, key), result in strictest.items():
            value = {"value": result.value, "limit": result.limit, "verdict": float(_VERDICTS[result.verdict])}[metric.rpartition("_")[2]]
            lines.append(
                f'{metric}{{model="{_label(model)}",batch="{batch}",key="{key}"}} {"NaN" if math.isnan(value) else f"{value:.9g}"}'
            )
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
