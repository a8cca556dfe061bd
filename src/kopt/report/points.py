"""What the page and its charts are made of: one point per measured runtime and batch, the front, and the knee."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from kopt.measure import Measurement, knee_index, quantile_interval_us
from kopt.report.text import duration

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Point:
    """One runtime measured at one batch.

    Attributes:
        series: what a line of a chart connects, such as "digits.kopt" or "onnxruntime 1.32.0".
        batch: rows per call; 0 where no input has a batch axis.
        latency: ``p50_us`` ... ``samples_ns`` as in report.json.
        facts: further fields of the bucket, such as ``accuracy``, ``load_s``, ``peak_bytes``.
        is_peer: whether it is measured for comparison only.
    """

    series: str
    batch: int
    latency: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_peer: bool = False

    @property
    def label(self) -> str:
        """Series and batch."""
        return f"{self.series}, {batch_name(self.batch)}"

    @property
    def p50_us(self) -> float:
        """The median latency."""
        return float(self.latency["p50_us"])

    @property
    def throughput_per_s(self) -> float:
        """Rows, or calls where there is no batch, per second at the median latency."""
        return max(1, self.batch) / self.p50_us * 1e6

    @property
    def error(self) -> float | None:
        """Error relative to the largest reference output, None where it was not compared."""
        return float(self.facts["accuracy"]["relative"]) if "accuracy" in self.facts else None

    @cached_property
    def measurement(self) -> Measurement:
        """The raw samples; no blocks where the report has none."""
        return Measurement(tuple(map(tuple, self.latency.get("samples_ns", ()))))

    @cached_property
    def intervals_us(self) -> dict[int, tuple[float, float] | None]:
        """95 % interval of every percentile, None where it cannot be given."""
        return {percent: quantile_interval_us(self.measurement, percent / 100) for percent in PERCENTILES}

    def text(self, percent: int) -> str:
        """A percentile with its interval."""
        bounds = self.intervals_us[percent]
        value = duration(self.latency.get(f"p{percent}_us"))
        return value if bounds is None else f"{value} [{duration(bounds[0])}, {duration(bounds[1])}]"


@dataclass(frozen=True)
class Source:
    """A report and what to call it.

    Attributes:
        name: such as the artifact's file name.
        report: the content of report.json.
    """

    name: str
    report: Mapping[str, Any]


def batch_name(batch: int) -> str:
    """The batch as people call it."""
    return f"batch {batch}" if batch else "no batch axis"


def points(sources: Sequence[Source]) -> tuple[Point, ...]:
    """Every measured bucket of every report with its peer, in order."""
    return tuple(point for source in sources for point in _points(source, alone=len(sources) == 1))


def _points(source: Source, *, alone: bool) -> Iterator[Point]:
    for bucket in source.report.get("buckets", ()):
        if "latency" in bucket:
            yield Point(source.name, bucket["batch"], bucket["latency"], bucket)
            base = bucket.get("baseline", {})
            if "latency" in base:
                peer = f"{base['name']} {base.get('version', '')}".strip()
                yield Point(peer if alone else f"{peer} beside {source.name}", bucket["batch"], base["latency"], is_peer=True)


def by_series(found: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each series by growing batch."""
    series: dict[str, list[Point]] = {}
    for point in sorted(found, key=lambda one: one.batch):
        series.setdefault(point.series, []).append(point)
    return {name: series[name] for name in dict.fromkeys(point.series for point in found)}


def pareto(pairs: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the pairs that no other pair beats in both: a smaller first and a larger second; by growing first.

    Of equal pairs the first is kept.
    """
    front: list[int] = []
    best = -np.inf
    for index in sorted(range(len(pairs)), key=lambda one: (pairs[one][0], -pairs[one][1], one)):
        if pairs[index][1] > best:
            front.append(index)
            best = pairs[index][1]
    return front


def knee(batches: Sequence[int], throughputs: Sequence[float], share: float = 0.9) -> int | None:
    """The smallest batch with nearly the highest throughput: beyond it calls only take longer. None where it still rises at the largest.

    Args:
        batches: growing, at least 1.
        throughputs: rows per second at each.
        share: of the highest throughput that is nearly enough.
    """
    if len(batches) < 2 or min(batches) < 1:
        return None
    index = knee_index(throughputs, share)
    return None if index is None or index == len(batches) - 1 else batches[index]


def searched(source: Source) -> tuple[Point, ...]:
    """The batch curve that a search measured, which has no samples."""
    curve = source.report.get("search", {}).get("batches", ())
    return tuple(Point(f"{source.name}, searched", one["batch"], {"p50_us": one["p50_us"]}) for one in curve)
