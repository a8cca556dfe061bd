"""What a config will probably cost, learned from the trials so far; it only ranks, a measured time decides.

Gradient-boosted trees in numpy. A few hundred trials of a dozen discrete knobs are all there is to learn from, and fitting them takes
some ten milliseconds here, so XGBoost or scikit-learn (60 MB and more) would add a dependency and no accuracy worth it. A linear
model cannot hold what matters most, that tiles suit each other or not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from kopt.space import Choice, Config, Knob, SearchSpace

_MAX_PAIRS = 36
_MAX_BINS = 32
_FAILED = 2.0
"""A config certain to fail counts as e**2 times slower; one no likelier to fail than all are counts by its time alone."""


@dataclass(frozen=True)
class BoostedTrees:
    """Boosted regression trees of one depth, on binned features, for squared error.

    Attributes:
        num_trees: rounds of boosting.
        depth: splits on the way to a leaf.
        rate: share of each tree's answer that is taken.
        shrinkage: added to a leaf's count of samples: small leaves say little.
    """

    num_trees: int = 50
    depth: int = 4
    rate: float = 0.2
    shrinkage: float = 1.0

    def fit(self, features: np.ndarray, targets: np.ndarray) -> FittedTrees:
        """Learn from ``features`` f64[N, F] and ``targets`` f64[N]."""
        edges = [_edges(features[:, k]) for k in range(features.shape[1])]
        codes = _codes(features, edges)
        mean = float(targets.mean()) if targets.size else 0.0
        left = targets - mean
        trees = []
        for _ in range(self.num_trees if features.shape[1] and targets.size > 1 else 0):
            tree, answers = self._tree(codes, left)
            trees.append(tree)
            left = left - answers
        return FittedTrees(mean, self.depth, edges, trees)

    def _tree(self, codes: np.ndarray, targets: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        """One tree (feature and cut of each inner node, level by level, and the leaves' answers), and its answers here."""
        count, num_features = codes.shape
        inner = 2**self.depth - 1
        feature, cut = np.zeros(inner, np.int64), np.full(inner, _MAX_BINS, np.int64)
        node = np.zeros(count, np.int64)  # within its level
        columns = np.arange(num_features)
        for level in range(self.depth):
            first, width = 2**level - 1, 2**level
            flat = ((node[:, None] * num_features + columns) * _MAX_BINS + codes).ravel()
            size = width * num_features * _MAX_BINS
            shape = (width, num_features, _MAX_BINS)
            counts = np.bincount(flat, minlength=size).reshape(shape).cumsum(2)
            sums = np.bincount(flat, np.repeat(targets, num_features), size).reshape(shape).cumsum(2)
            gain = self._score(sums, counts) + self._score(sums[:, :, -1:] - sums, counts[:, :, -1:] - counts)
            gain -= self._score(sums[:, :, -1:], counts[:, :, -1:])
            flat_gain = gain.reshape(width, -1)
            best = flat_gain.argmax(1)
            useful = flat_gain[np.arange(width), best] > 1e-12
            feature[first : first + width] = best // _MAX_BINS
            cut[first : first + width] = np.where(useful, best % _MAX_BINS, _MAX_BINS)
            at = first + node
            node = 2 * node + (codes[np.arange(count), feature[at]] > cut[at])
        leaves = 2**self.depth
        answers = np.bincount(node, targets, leaves) / (np.bincount(node, minlength=leaves) + self.shrinkage) * self.rate
        return (feature, cut, answers), answers[node]

    def _score(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """How much squared error a leaf removes."""
        return np.asarray(sums**2 / (counts + self.shrinkage))


@dataclass(frozen=True)
class FittedTrees:
    """What ``BoostedTrees.fit`` learned."""

    mean: float
    depth: int
    edges: Sequence[np.ndarray]
    trees: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Answers f64[N] for features f64[N, F]."""
        codes = _codes(features, self.edges)
        result = np.full(len(features), self.mean)
        rows = np.arange(len(features))
        for feature, cut, answers in self.trees:
            node = np.zeros(len(features), np.int64)
            for level in range(self.depth):
                at = 2**level - 1 + node
                node = 2 * node + (codes[rows, feature[at]] > cut[at])
            result += answers[node]
        return result


def _edges(column: np.ndarray) -> np.ndarray:
    """Upper edges of at most _MAX_BINS bins, all but the last."""
    values = np.unique(column)
    if len(values) > _MAX_BINS:
        values = np.unique(np.quantile(column, np.linspace(0, 1, _MAX_BINS), method="nearest"))
    return np.asarray((values[1:] + values[:-1]) / 2)


def _codes(features: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    if not features.size:
        return np.zeros(features.shape, np.int64)
    return np.stack([np.searchsorted(edge, features[:, k]) for k, edge in enumerate(edges)], axis=1)


class CostModel:
    """Ranks the configs of one space."""

    def __init__(self, space: SearchSpace) -> None:
        self._knobs = [knob for knob in space.knobs if len(knob.choices) > 1]
        positive = [knob for knob in self._knobs if knob.is_ordered and all(float(choice) > 0 for choice in knob.choices)]
        self._pairs = list(combinations(positive, 2))[:_MAX_PAIRS]
        self._fitted: FittedTrees | None = None
        self._failing: FittedTrees | None = None

    def features(self, configs: Sequence[Config]) -> np.ndarray:
        """Numbers f64[N, F]: ordered knobs as they are, others one column per choice, and products of pairs (sizes of tiles)."""
        rows = [
            [*(value for knob in self._knobs for value in _columns(knob, config[knob.name])), *self._products(config)] for config in configs
        ]
        return np.array(rows, np.float64).reshape(len(configs), -1)

    def fit(self, configs: Sequence[Config], times_us: Sequence[float | None]) -> None:
        """Learn from measured times; None is a failure.

        Failures are learned apart from times: as slow times, those without a pattern would spoil what is known of their neighbours.
        """
        timed = [index for index, time in enumerate(times_us) if time is not None]
        self._fitted = self._failing = None
        if not timed:
            return
        features = self.features(configs)
        self._fitted = BoostedTrees().fit(features[timed], np.log([time for time in times_us if time is not None]))
        if len(timed) < len(configs):
            failed = np.array([time is None for time in times_us], np.float64)
            self._failing = BoostedTrees(num_trees=25, depth=3).fit(features, failed)

    def predict_us(self, configs: Sequence[Config]) -> np.ndarray:
        """Probable times f64[N] in microseconds, longer for what probably fails; all alike before anything was learned."""
        if self._fitted is None or not configs:
            return np.ones(len(configs))
        features = self.features(configs)
        logs = self._fitted.predict(features)
        if self._failing is not None:
            logs = logs + _FAILED * np.maximum(0.0, self._failing.predict(features) - self._failing.mean)
        return np.asarray(np.exp(logs))

    def _products(self, config: Config) -> list[float]:
        return [math.log(float(config[a.name])) + math.log(float(config[b.name])) for a, b in self._pairs]


def _columns(knob: Knob, choice: Choice) -> list[float]:
    if knob.is_ordered:
        return [float(choice)]
    if len(knob.choices) == 2:
        return [float(knob.index(choice))]
    return [float(knob.index(choice) == k) for k in range(len(knob.choices))]
