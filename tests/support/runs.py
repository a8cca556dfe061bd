"""Recorded runs of the latency gate, made up: the candidate is a given factor slower than the baseline."""

from __future__ import annotations

import numpy as np

from kopt.check.measure_pairs import Pair, ProcessRun


def process_run(
    rng: np.random.Generator,
    slowdown: float = 0.0,
    *,
    alone: bool = False,
    pairs: int = 4,
    calls: int = 60,
    noise: float = 0.01,
    **facts: float,
) -> ProcessRun:
    """One process: latencies around 1 ms; ``facts`` go to every pair (throttled, steal)."""

    def block(factor: float) -> tuple[int, ...]:
        return tuple(int(x) for x in 1e6 * factor * rng.lognormal(rng.normal(0, noise), noise, calls))

    made = tuple(Pair(() if alone else block(1.0), block(1.0 + slowdown), **facts) for _ in range(pairs))
    return ProcessRun(made, load_s=0.1, peak_bytes=10**8)
