"""Where the level of a series changes: PELT, which finds the cheapest cut exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEAST_NOISE = 1e-3
"""Noise taken for granted, so that a nearly constant series is not cut at the clock's own steps."""

_PENALTY = (
    3.0  # times ln n; Source: Barrett et al., "Virtual machine warmup blows hot and cold" (15 ln n on other noise), made for few points
)


def noise_of(values: Sequence[float]) -> float:
    """The standard deviation around a level that may change: from neighbours' differences, robustly."""
    steps = np.abs(np.diff(np.asarray(values, float)))
    return max(float(np.median(steps)) * 1.4826 / math.sqrt(2), LEAST_NOISE) if steps.size else LEAST_NOISE


def change_points(values: Sequence[float], min_size: int = 2) -> tuple[int, ...]:
    """First indices of new levels, ascending; empty for a series with one level or of fewer than ``2 * min_size`` values.

    Args:
        values: the series, such as logarithms of latencies.
        min_size: values a level has at least; 1 would call every outlier a level.
    """
    if len(values) < 2 * min_size:
        return ()
    from ruptures import KernelCPD

    scaled = np.asarray(values, float)[:, None] / noise_of(values)
    ends = KernelCPD(kernel="linear", min_size=min_size).fit(scaled).predict(pen=_PENALTY * math.log(len(values)))
    return tuple(int(end) for end in ends[:-1])
