"""The outcome as the text that Go's benchstat reads."""

from __future__ import annotations

import re

from kopt.check.gate import Outcome


def to_benchstat(outcome: Outcome, *, baseline: bool = False) -> str:
    """One line of Go's benchmark format per block, its median call, of the candidates or of their baselines.

    Source: https://go.googlesource.com/proposal/+/master/design/14313-benchmark-format.md
    """
    lines = [f"cpu: {outcome.machine}"]
    for samples in outcome.samples:
        name = f"Benchmark{_go_name(samples.model)}/batch={samples.batch}"
        for run in samples.runs:
            for pair in run.pairs:
                block = sorted(pair.baseline_ns if baseline else pair.candidate_ns)
                if block:
                    lines.append(f"{name} {len(block)} {block[len(block) // 2]} ns/op")
    return "\n".join(lines) + "\n"


def _go_name(text: str) -> str:
    """A name without white space that begins in upper case, as the format asks."""
    name = re.sub(r"\s+", "_", text) or "Model"
    return name[0].upper() + name[1:]
