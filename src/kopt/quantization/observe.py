"""Running a graph for values inside it, one feed at a time, and what is kept of them: limits and histograms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kopt.calibration import Feed
from kopt.hardware import Target
from kopt.ir.graph import Graph, Value
from kopt.ir.surgery import remove_dead
from kopt.passes.quantize.plan import plan
from kopt.quantization.relevance import EVERYTHING, Relevance
from kopt.specialize import Programs, Recipe

BINS = 2048
MAX_COUNTED = 1 << 19
"""Of a larger array, every so-manieth number is counted."""
MASKED = -1e30
"""Numbers below are masks: they stand for minus infinity and say nothing about the range of what they are added to."""


class Observer:
    """A graph that also gives values inside it; compiled once per set of shapes."""

    def __init__(self, graph: Graph, values: Sequence[Value] = ()) -> None:
        inside = [value for value in dict.fromkeys(values) if value not in graph.constants and value not in graph.inputs]
        self._values = tuple(dict.fromkeys(values))
        self._inputs = tuple(value.name for value in graph.inputs)
        self._num_outputs = len(graph.outputs)
        self._inside, self._programs = _programs(graph, tuple(inside))

    def __call__(self, feed: Feed) -> tuple[list[np.ndarray], dict[Value, np.ndarray]]:
        """The outputs, and the values asked for."""
        results = [np.asarray(array) for array in self._programs([feed[name] for name in self._inputs])]
        held = dict(zip(self._inside, results[self._num_outputs :], strict=True))
        found = {value: held[value] if value in held else feed[value.name] for value in self._values if value in held or value.name in feed}
        return results[: self._num_outputs], found

    def each(self, feeds: Iterable[Feed]) -> Iterator[dict[Value, np.ndarray]]:
        """The values for one feed after another."""
        for feed in feeds:
            yield self(feed)[1]


_HELD: list[tuple[Graph, tuple[Value, ...], Programs]] = []
"""Programs of the graphs that are being looked at: every step of a quantization asks one graph for the same values."""
_MAX_HELD = 3


def _programs(graph: Graph, inside: tuple[Value, ...]) -> tuple[tuple[Value, ...], Programs]:
    """A program that gives these values, and maybe others: compiling it takes longer than running it."""
    for held, values, programs in _HELD:
        if held is graph and set(values) >= set(inside):
            return values, programs
    # What layers read is asked for sooner or later.
    usual = [value for value in plan(graph).groups if value not in graph.constants and value not in graph.inputs] if inside else []
    values = tuple(dict.fromkeys((*inside, *usual)))
    whole = remove_dead(graph.replace(outputs=(*graph.outputs, *values)))
    programs = Programs(whole, Recipe.of_preset("xla"), Target.parse("cpu"))
    _HELD.append((graph, values, programs))
    del _HELD[:-_MAX_HELD]
    return values, programs


def forget() -> None:
    """Free the programs of graphs that were looked at."""
    _HELD.clear()


@dataclass
class Spread:
    """What is known of a value's numbers.

    Attributes:
        low, high: limits, masks left out.
        counts: per bin between the limits; None before the second pass.
    """

    low: float = 0.0
    high: float = 0.0
    counts: np.ndarray | None = None

    def widen(self, array: np.ndarray) -> None:
        """Take the limits of more numbers."""
        seen = unmasked(array)
        if seen.size:
            self.low, self.high = min(self.low, float(seen.min())), max(self.high, float(seen.max()))

    def count(self, array: np.ndarray) -> None:
        """Count more numbers."""
        if self.high > self.low:
            flat = array.reshape(-1)[:: max(1, array.size // MAX_COUNTED) | 1]  # an odd stride meets every feature
            found, _ = np.histogram(unmasked(flat), BINS, (self.low, self.high))
            self.counts = found if self.counts is None else self.counts + found


def unmasked(array: np.ndarray) -> np.ndarray:
    """The numbers that are no masks."""
    return array[array > MASKED] if array.size and array.min() <= MASKED else array


def spreads(
    graph: Graph, values: Sequence[Value], feeds: Iterable[Feed], *, histograms: bool = True, relevant: Relevance = EVERYTHING
) -> dict[Value, Spread]:
    """Limits of values and, by a second pass over the feeds, their histograms. One feed is in memory at a time.

    Args:
        graph: what to run.
        values: inside the graph, or inputs.
        feeds: may be iterated twice.
        histograms: whether to make the second pass.
        relevant: rows that count.
    """
    observer = Observer(graph, values)
    found = {value: Spread() for value in values}
    for index, arrays in enumerate(observer.each(feeds)):
        for value, array in arrays.items():
            found[value].widen(relevant.kept(index, value, array))
    if histograms:
        for index, arrays in enumerate(observer.each(feeds)):
            for value, array in arrays.items():
                found[value].count(relevant.kept(index, value, array))
    return found


def candidates(spread: Spread) -> Mapping[str, tuple[float, float]]:
    """Ranges to choose from, by method: all of it, most of it, and those that lose the least by two measures."""
    ranges = {"minmax": (spread.low, spread.high)}
    if spread.counts is None or not spread.counts.any():
        return ranges
    for share in (0.9999, 0.99999):
        ranges[f"percentile {100 * share:g}"] = _percentile(spread, spread.counts, share)
    ranges["mse"] = _smallest(spread, spread.counts, _squared_error)
    ranges["entropy"] = _smallest(spread, spread.counts, _divergence)
    return ranges


def _percentile(spread: Spread, counts: np.ndarray, share: float) -> tuple[float, float]:
    total = np.cumsum(counts) / counts.sum()
    edges = np.linspace(spread.low, spread.high, BINS + 1)
    low = edges[np.searchsorted(total, 1 - share, side="right")]
    high = edges[min(int(np.searchsorted(total, share)) + 1, BINS)]
    return min(float(low), 0.0), max(float(high), 0.0)


def _smallest(spread: Spread, counts: np.ndarray, loss: object) -> tuple[float, float]:
    """The shrunken range of least loss."""
    ranges = [(spread.low * part, spread.high * part) for part in np.linspace(0.3, 1.0, 36)]
    losses = [loss(spread, counts, low, high) for low, high in ranges]  # type: ignore[operator]
    return ranges[int(np.argmin(losses))]


def _rounded(spread: Spread, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the bins, and what they become in 8 bits over a range."""
    edges = np.linspace(spread.low, spread.high, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    step = (high - low) / 255 or 1.0
    return centres, np.clip(np.round((centres - low) / step), 0, 255)


def _squared_error(spread: Spread, counts: np.ndarray, low: float, high: float) -> float:
    centres, codes = _rounded(spread, low, high)
    back = codes * ((high - low) / 255 or 1.0) + low
    return float((counts * (centres - back) ** 2).sum())


def _divergence(spread: Spread, counts: np.ndarray, low: float, high: float) -> float:
    """Kullback-Leibler divergence of the distribution from its 8-bit form, spread evenly over the bins of each code."""
    _, codes = _rounded(spread, low, high)
    index = codes.astype(np.int64)
    filled = counts > 0
    mass = np.bincount(index, counts, 256)
    width = np.bincount(index, filled.astype(np.float64), 256)
    approximate = np.where(filled, (mass / np.maximum(width, 1))[index], 0.0)
    p, q = counts / counts.sum(), approximate / approximate.sum()
    # What lies beyond the range is counted by how far it is moved, which the divergence alone would not see.
    edges = np.linspace(spread.low, spread.high, BINS + 1)
    beyond = (edges[1:] < low) | (edges[:-1] > high)
    return float((p[filled] * np.log(p[filled] / q[filled])).sum() + p[beyond].sum() * np.log(255))


def layer_ranges(graph: Graph, feeds: Iterable[Feed], keep: Iterable[str] = ()) -> dict[str, tuple[float, float]]:
    """Limits of what layers read and make, by value name."""
    layers = plan(graph, keep).layers.values()
    found = spreads(graph, [value for layer in layers for value in (layer.x, layer.node.output)], feeds, histograms=False)
    return {value.name: (spread.low, spread.high) for value, spread in found.items()}


def moments(graph: Graph, feeds: Iterable[Feed], keep: Iterable[str] = (), relevant: Relevance = EVERYTHING) -> dict[str, np.ndarray]:
    """Second moments x^T x of what each product reads, f64 (K, K), by the product's name."""
    layers = [layer for layer in plan(graph, keep).layers.values() if layer.node.op != "Conv"]
    observer = Observer(graph, [layer.x for layer in layers])
    sums: dict[Value, np.ndarray] = {}
    for index, arrays in enumerate(observer.each(feeds)):
        for value, array in arrays.items():
            kept = relevant.kept(index, value, array)
            rows = kept.reshape(-1, kept.shape[-1]).astype(np.float32)
            sums[value] = sums.get(value, 0.0) + (rows.T @ rows).astype(np.float64)
    return {layer.name: sums[layer.x] for layer in layers if layer.x in sums}


def feature_peaks(graph: Graph, feeds: Iterable[Feed], keep: Iterable[str] = (), relevant: Relevance = EVERYTHING) -> dict[str, np.ndarray]:
    """Largest magnitude per feature of what each product reads, f32 (K,), by value name."""
    values = [layer.x for layer in plan(graph, keep).layers.values() if layer.node.op != "Conv"]
    found: dict[str, np.ndarray] = {}
    for index, arrays in enumerate(Observer(graph, values).each(feeds)):
        for value, every in arrays.items():
            array = relevant.kept(index, value, every)
            peak = np.abs(np.where(array > MASKED, array, 0)).max(axis=tuple(range(array.ndim - 1)), initial=0)
            found[value.name] = np.maximum(found.get(value.name, np.float32(0)), peak)
    return found
