"""The search finds nearly the best of made-up landscapes in few trials, whatever fails, and can be cut off anywhere."""

from __future__ import annotations

import random

import pytest

from kopt.autotune.search import Search, SearchSettings
from kopt.space import Constraint, Knob, SearchSpace, config_key
from kopt.trial import FAILURE_KINDS, Failure, Measured
from support.landscapes import LANDSCAPES, SPACE, optimum, unit
from support.tuning import measured

SMALL = SearchSpace((Knob("a", (1, 2, 4, 8)), Knob("b", ("x", "y", "z"))), (Constraint(("a", "b"), lambda a, b: a != 8 or b == "x"),))


class Trials:
    """Measures a landscape: records what is asked, may fail some configs, and may be noisy."""

    def __init__(self, cost, *, fails=lambda config: False, noise: float = 0.0, seed: int = 0) -> None:
        self.cost, self.fails, self.noise, self.rng = cost, fails, noise, random.Random(seed)
        self.asked: list[str] = []
        self.give_ups: list[float | None] = []

    def __call__(self, config, *, give_up_us):
        self.asked.append(config_key(config))
        self.give_ups.append(give_up_us)
        if self.fails(config):
            return Failure(FAILURE_KINDS[int(unit(config, "kind") * len(FAILURE_KINDS))])
        time = self.cost(config) * self.rng.lognormvariate(0, self.noise)
        return measured(time, complete=give_up_us is None or time <= give_up_us)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "trials"), [("gemm", 128), ("rugged", 128)])
def test_nearly_the_best_of_many_thousands_is_found(name, trials, seed) -> None:
    cost = LANDSCAPES[name]
    search = Search(SPACE, SearchSettings(seed=seed))
    search.step(Trials(cost), trials)
    assert optimum(cost) / search.best.p50_us >= 0.95


def test_it_is_far_better_than_chance() -> None:
    cost = LANDSCAPES["deceptive"]
    found, chance = [], []
    for seed in range(4):
        search = Search(SPACE, SearchSettings(seed=seed))
        search.step(Trials(cost), 160)
        found.append(optimum(cost) / search.best.p50_us)
        chance.append(optimum(cost) / min(map(cost, SPACE.sample_distinct(random.Random(seed), 160))))
    assert sorted(found)[2] >= 0.95
    assert sum(found) > sum(chance)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_third_of_sabotaged_candidates_changes_nothing(seed) -> None:
    cost = LANDSCAPES["gemm"]
    best = min(SPACE.enumerate(), key=cost)

    def fails(config) -> bool:
        return unit(config, f"sabotage{seed}") < 0.3 and config != best

    plain, sabotaged = (Search(SPACE, SearchSettings(seed=seed)) for _ in range(2))
    plain.step(Trials(cost), 192)
    trials = Trials(cost, fails=fails)
    sabotaged.step(trials, 192)
    assert len(trials.asked) == 192
    assert plain.best.config == sabotaged.best.config == best


def test_noise_is_measured_away() -> None:
    cost = LANDSCAPES["gemm"]
    search = Search(SPACE, SearchSettings(seed=1))
    trials = Trials(cost, noise=0.05)
    search.step(trials, 128)
    before = len(trials.asked)
    best = search.confirm(trials)
    assert len(trials.asked) - before == 8  # the three fastest and the default, twice
    assert best.num_measurements == 3
    assert optimum(cost) / cost(best.config) >= 0.9
    search.confirm(trials)
    assert len(trials.asked) - before <= 16


def test_the_seed_decides_everything() -> None:
    asked = []
    for seed in (5, 5, 6):
        trials = Trials(LANDSCAPES["rugged"])
        Search(SPACE, SearchSettings(seed=seed), name="w").step(trials, 48)
        asked.append(trials.asked)
    assert asked[0] == asked[1] != asked[2]
    assert len(set(asked[0])) == 48


@pytest.mark.parametrize("cut", [0, 1, 7, 16, 19, 24, 31])
def test_a_search_cut_off_goes_on_where_it_stopped(cut) -> None:
    def fails(config) -> bool:
        return unit(config, "sabotage") < 0.3

    hints = [{**SPACE.default(), "ku": 4}, {**SPACE.default(), "ku": 8}]
    whole, parts = Trials(LANDSCAPES["gemm"], fails=fails), Trials(LANDSCAPES["gemm"], fails=fails)
    one = Search(SPACE, SearchSettings(seed=2), hints=hints)
    one.step(whole, 40)
    known = []

    def note(config, *, give_up_us):
        known.append((config, parts(config, give_up_us=give_up_us)))
        return known[-1][1]

    Search(SPACE, SearchSettings(seed=2), hints=hints).step(note, cut)
    other = Search(SPACE, SearchSettings(seed=2), hints=hints, known=known)
    assert other.num_trials == cut
    other.step(parts, 40 - cut)
    assert parts.asked == whole.asked
    assert other.best == one.best


def test_other_seeds_trials_are_built_upon() -> None:
    cost = LANDSCAPES["gemm"]
    known = [(config, measured(cost(config))) for config in SPACE.sample_distinct(random.Random(9), 37)]
    trials = Trials(cost)
    search = Search(SPACE, SearchSettings(seed=3), known=[*known, ({"alien": 1}, measured(1.0))])
    search.step(trials, 80)
    assert len(set(trials.asked) | {config_key(config) for config, _ in known}) == 117
    assert optimum(cost) / search.best.p50_us >= 0.9


def test_the_default_comes_first_then_hints_of_this_space() -> None:
    trials = Trials(LANDSCAPES["gemm"])
    hint = {**SPACE.default(), "mr": 12}
    Search(SPACE, hints=[{"mr": 3}, hint, SPACE.default()]).step(trials, 3)
    assert trials.asked[:2] == [config_key(SPACE.default()), config_key(hint)]


def test_a_small_space_is_tried_whole_and_then_finished() -> None:
    trials = Trials(lambda config: float(config["a"]), fails=lambda config: config["b"] == "y")
    search = Search(SMALL)
    assert not search.is_finished
    assert search.step(trials, 100) == 10
    assert sorted(trials.asked) == sorted(config_key(config) for config in SMALL.enumerate())
    assert search.is_finished
    assert search.propose() is None
    assert search.best.config["a"] == 1


def test_a_single_point_is_tried_once() -> None:
    search = Search(SearchSpace())
    assert search.step(Trials(lambda config: 3.0), 5) == 1
    assert search.best.p50_us == 3.0
    assert search.is_finished


def test_narrow_constraints_do_not_end_a_search_early() -> None:
    knobs = tuple(Knob(f"k{i}", tuple(range(1, 31))) for i in range(4))
    space = SearchSpace(knobs, (Constraint(("k0", "k1"), lambda a, b: a == b), Constraint(("k2", "k3"), lambda a, b: a + b == 31)))
    search = Search(space)
    assert search.step(Trials(lambda config: abs(config["k0"] - 20) + abs(config["k2"] - 9) + 1.0), 150) == 150
    assert search.best.p50_us <= 3.0


def test_nothing_works() -> None:
    search = Search(SPACE)
    assert search.step(Trials(lambda config: 1.0, fails=lambda config: True), 60) == 60
    assert search.best is None
    assert search.confirm(Trials(lambda config: 1.0)) is None
    assert search.gain_of_last(8) == 0.0


def test_slow_candidates_are_given_up_and_never_win() -> None:
    trials = Trials(LANDSCAPES["gemm"])
    search = Search(SPACE, SearchSettings(give_up=1.2))
    search.step(trials, 40)
    assert trials.give_ups[0] is None
    assert all(limit >= search.best.p50_us * 1.2 for limit in trials.give_ups[1:])
    assert min(trials.give_ups[1:]) < max(trials.give_ups[1:])
    rough = Search(SPACE)
    rough.observe(SPACE.default(), measured(1.0, complete=False))
    assert rough.best is None


def test_a_confirmation_that_fails_dethrones_the_best() -> None:
    search = Search(SMALL)
    search.step(Trials(lambda config: float(config["a"])), 10)
    first = search.best.config
    second = search.confirm(Trials(lambda config: float(config["a"]), fails=lambda config: config == first))
    assert second.config != first


def test_without_gains_a_search_counts_as_finished() -> None:
    search = Search(SPACE, SearchSettings(patience=2))
    search.step(Trials(lambda config: 7.0), 32)
    assert not search.is_finished
    search.step(Trials(lambda config: 7.0), 1)
    assert search.is_finished
    assert search.gain_of_last(16) == 0.0
    assert isinstance(search.propose(), dict)
    assert isinstance(measured(1.0), Measured)
