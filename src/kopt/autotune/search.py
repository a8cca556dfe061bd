"""Searching one space: batches of promising configs, bred from the best and ranked by the cost model, some drawn at random.

What is tried next depends on the seed and the trials so far, and on nothing else. A search that was cut off is continued by showing
a new one the trials of the database: it goes on exactly where the other stopped, in the middle of a batch too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

import numpy as np

from kopt.autotune.cost_model import CostModel
from kopt.space import Config, SearchSpace, config_key
from kopt.trial import Failure, Measured, Outcome


class Measure(Protocol):
    """Tries one config."""

    def __call__(self, config: Config, *, give_up_us: float | None) -> Outcome:
        """The outcome; a candidate whose first calls are slower than ``give_up_us`` need not be timed further."""
        ...


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How a space is searched.

    Attributes:
        seed: decides every random choice.
        num_first: trials before the cost model is asked: the default, hints, and random points.
        batch: trials between two fits of the model.
        num_parents: the fastest configs new ones are bred from.
        pool: configs the model ranks for each batch.
        near_share, doubt_share, random_share: of a batch: neighbours of the best, what models of half of the trials rank first, and
            what is drawn at random; the rest is what the model ranks first.
        give_up: candidates slower than this many times the best are given up early.
        patience: batches without a gain of 1 % after which a search counts as finished.
        num_confirmed: the fastest configs, measured again before one is believed.
        confirmations: how often.
    """

    seed: int = 0
    num_first: int = 16
    batch: int = 8
    num_parents: int = 12
    pool: int = 256
    near_share: float = 0.25
    doubt_share: float = 0.375
    random_share: float = 0.125
    give_up: float = 3.0
    patience: int = 12
    num_confirmed: int = 3
    confirmations: int = 2


@dataclass(frozen=True, slots=True)
class Best:
    """The fastest config.

    Attributes:
        config: the point.
        p50_us: the median of its measurements.
        num_measurements: how many there are.
    """

    config: Config
    p50_us: float
    num_measurements: int


@dataclass
class _Tried:
    """All that is known of one config."""

    config: Config
    times_us: list[float | None] = field(default_factory=list)
    counts: bool = True
    """Whether it may be the best: it never failed, and was never given up early."""

    @property
    def time_us(self) -> float | None:
        """Median of its times, rough ones too; None after a failure."""
        known = [time for time in self.times_us if time is not None]
        return median(known) if len(known) == len(self.times_us) else None

    def observe(self, outcome: Outcome) -> None:
        """Take note of a trial."""
        self.times_us.append(None if isinstance(outcome, Failure) else outcome.p50_us)
        self.counts = self.counts and isinstance(outcome, Measured) and outcome.complete


class Search:
    """The search of one space."""

    def __init__(
        self,
        space: SearchSpace,
        settings: SearchSettings | None = None,
        *,
        name: str = "",
        hints: Sequence[Config] = (),
        known: Iterable[tuple[Config, Outcome]] = (),
    ) -> None:
        """A search that knows what was tried.

        Args:
            space: where to search.
            settings: how.
            name: mixed into the seed, so that two workloads do not draw the same numbers.
            hints: configs to try right after the default; what is not in the space is left out.
            known: trials made before, oldest first; what is not in the space is left out.
        """
        self.space = space
        self.settings = settings or SearchSettings()
        self._name = name
        self._model = CostModel(space)
        self._tried: dict[str, _Tried] = {}
        self._order: list[str] = []
        self._hints = [config for config in hints if config in space]
        self._queue: list[Config] = []
        self._planned = -1
        self._gains: list[float] = []  # best time after each trial
        self._exhausted = False
        for config, outcome in known:
            if config in space:
                self.observe(config, outcome)

    @property
    def num_trials(self) -> int:
        """Different configs tried."""
        return len(self._order)

    @property
    def best(self) -> Best | None:
        """The fastest config so far; None while nothing was measured."""
        found = [one for one in self._tried.values() if one.counts]
        if not found:
            return None
        fastest = min(found, key=lambda one: (one.time_us or 0.0, config_key(one.config)))
        return Best(fastest.config, fastest.time_us or 0.0, len(fastest.times_us))

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to try, or the last batches gained nothing."""
        if self._exhausted or self.num_trials >= self.space.num_combinations:
            return True
        lately = self.settings.patience * self.settings.batch
        trials = self._gains[self.settings.num_first :]
        return len(trials) > lately and trials[-1] > 0.99 * trials[-1 - lately]

    def gain_of_last(self, trials: int) -> float:
        """By which share the best time fell over the last so many trials."""
        if len(self._gains) < 2:
            return 0.0
        before = self._gains[max(0, len(self._gains) - 1 - trials)]
        return 1.0 - self._gains[-1] / before if before < float("inf") else 0.0

    def observe(self, config: Config, outcome: Outcome) -> None:
        """Take note of a trial."""
        key = config_key(config)
        if key not in self._tried:
            self._tried[key] = _Tried(dict(config))
            self._order.append(key)
            self._tried[key].observe(outcome)
            best = self.best
            self._gains.append(min(best.p50_us if best else float("inf"), self._gains[-1] if self._gains else float("inf")))
        else:
            self._tried[key].observe(outcome)

    def propose(self) -> Config | None:
        """The next config to try; None when all were."""
        settings = self.settings
        count = self.num_trials
        start = 0 if count < settings.num_first else count - (count - settings.num_first) % settings.batch
        if self._planned != start:
            self._queue = self._first() if start == 0 else self._bred(start)
            self._planned = start
        for config in self._queue:
            if config_key(config) not in self._tried:
                return config
        self._exhausted = True
        return None

    def try_next(self, measure: Measure) -> Outcome | None:
        """Try one more config; None when all were tried."""
        config = self.propose()
        if config is None:
            return None
        best = self.best
        outcome = measure(config, give_up_us=None if best is None else best.p50_us * self.settings.give_up)
        self.observe(config, outcome)
        return outcome

    def step(self, measure: Measure, trials: int) -> int:
        """Try so many configs; how many were."""
        return next((done for done in range(trials) if self.try_next(measure) is None), trials)

    def confirm(self, measure: Measure, is_over: Callable[[], bool] = lambda: False) -> Best | None:
        """Measure the fastest configs again, in turn, so that the best is not just the luckiest; then the default.

        Ends early when ``is_over`` says so.
        """
        settings = self.settings
        found = sorted((one for one in self._tried.values() if one.counts), key=lambda one: one.time_us or 0.0)
        usual = self._tried.get(config_key(self.space.default()))
        rest = [usual] if usual is not None and usual in found[settings.num_confirmed :] else []
        found = found[: settings.num_confirmed]
        rounds = [found if number % 2 == 0 else found[::-1] for number in range(settings.confirmations if len(found) > 1 else 0)]
        for one in [*(one for order in rounds for one in order), *rest * settings.confirmations]:
            if is_over():
                break
            if len(one.times_us) <= settings.confirmations and one.counts:
                self.observe(one.config, measure(one.config, give_up_us=None))
        return self.best

    def _random(self, start: int) -> random.Random:
        return random.Random(f"{self.settings.seed}/{self._name}/{start}")  # noqa: S311 - nothing secret is drawn

    def _first(self) -> list[Config]:
        """The default, the hints, and random points: what is tried before the model knows anything."""
        half = self.settings.num_first // 2  # the rest is for what is good here and nowhere else
        chosen = {config_key(config): config for config in (self.space.default(), *self._hints[:half])}
        first = list(chosen.values())[: self.settings.num_first]
        missing = self.settings.num_first - len(first)
        return [*first, *self.space.sample_distinct(self._random(0), missing, list(chosen))]

    def _bred(self, start: int) -> list[Config]:
        """A batch from the first ``start`` trials.

        Some of it is what the model ranks first, some what models of random halves of the trials do: where they differ the model is
        unsure. Some are neighbours of the best, which keeps a wrong model from hiding the next step, and some are random.
        """
        settings, rng = self.settings, self._random(start)
        known = [self._tried[key] for key in self._order[:start]]
        pool, near = self._pool(known, rng), self._near_best(known)
        num_near, num_doubted, num_random = (
            round(share * settings.batch) for share in (settings.near_share, settings.doubt_share, settings.random_share)
        )
        doubted = [self._ranked(rng.sample(known, (len(known) + 1) // 2), pool)[0] for _ in range(num_doubted)]
        ranked, near = self._ranked(known, pool, near)
        chosen = self._spread(near, num_near, [])
        for ranking in doubted:
            chosen = self._spread(ranking, len(chosen) + 1, chosen)
        chosen = self._spread(ranked, settings.batch - num_random, chosen)
        seen = [*self._order[:start], *map(config_key, chosen)]
        batch = [*chosen, *self.space.sample_distinct(rng, settings.batch - len(chosen), seen)]
        if len(batch) < settings.batch:  # the space is nearly used up, or hardly sampled at random
            taken = set(map(config_key, batch))
            batch += [config for config in ranked if config_key(config) not in taken][: settings.batch - len(batch)]
        return batch

    def _ranked(self, known: Sequence[_Tried], *pools: Sequence[Config]) -> list[list[Config]]:
        """Pools, probably fastest first as learned from ``known``."""
        self._model.fit([one.config for one in known], [one.time_us for one in known])
        result = []
        for pool in pools:
            order = np.argsort(self._model.predict_us(pool), kind="stable")
            result.append([pool[index] for index in order])
        return result

    def _near_best(self, known: Sequence[_Tried]) -> list[Config]:
        """Untried neighbours of the best, and of the next best where that has few left."""
        tried = {config_key(one.config) for one in known}
        near: dict[str, Config] = {}
        for one in sorted((one for one in known if one.counts), key=lambda one: one.time_us or 0.0)[: self.settings.num_parents]:
            for config in self.space.neighbours(one.config):
                if config_key(config) not in tried:
                    near.setdefault(config_key(config), config)
            if len(near) >= self.settings.batch:
                break
        return list(near.values())

    def _pool(self, known: Sequence[_Tried], rng: random.Random) -> list[Config]:
        """Untried configs: changes and crossings of the fastest, and random ones."""
        tried = {config_key(one.config) for one in known}
        timed = sorted((one for one in known if one.time_us is not None), key=lambda one: one.time_us or 0.0)
        parents = [one.config for one in timed[: self.settings.num_parents]]
        pool: dict[str, Config] = {}

        def offer(config: Config) -> None:
            key = config_key(config)
            if key not in tried:
                pool.setdefault(key, config)

        for parent in parents[:3]:
            for config in self.space.neighbours(parent):
                offer(config)
        for _ in range(self.settings.pool if parents else 0):
            first = parents[min(int(rng.expovariate(4.0 / len(parents))), len(parents) - 1)]
            if rng.random() < 0.3:
                offer(self.space.cross(first, rng.choice(parents), rng))
            else:
                offer(self.space.mutate(first, rng, rng.choice((0.15, 0.3, 0.6))))
        for drawn in self.space.sample_distinct(rng, self.settings.pool // 2, [*tried, *pool]):
            offer(drawn)
        if len(pool) > 2 * self.settings.batch or not parents:
            return list(pool.values())
        for further in self._climb(parents[0], tried):
            offer(further)
        return list(pool.values())

    def _climb(self, parent: Config, tried: set[str]) -> list[Config]:
        """Untried points two moves away, for spaces whose constraints leave little to draw at random."""
        near: list[Config] = [second for first in self.space.neighbours(parent) for second in self.space.neighbours(first)]
        return [config for config in near if config_key(config) not in tried][: self.settings.pool]

    def _spread(self, ranked: Sequence[Config], count: int, chosen: Sequence[Config]) -> list[Config]:
        """``chosen`` and the next of a ranking, ``count`` in all; every other one differs from all before in two knobs at least."""
        found = list(chosen)
        taken = {config_key(config) for config in found}
        for config in ranked:
            if len(found) >= count:
                break
            apart = len(found) % 2 == 0 or all(sum(config[name] != other[name] for name in config) >= 2 for other in found)
            if config_key(config) not in taken and apart:
                found.append(config)
                taken.add(config_key(config))
        return found
