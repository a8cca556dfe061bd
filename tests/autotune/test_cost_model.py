"""The cost model ranks configs it has not seen, learns cliffs and failures, and is deterministic."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import spearmanr

from kopt.autotune.cost_model import BoostedTrees, CostModel
from kopt.space import Knob, SearchSpace
from support.landscapes import LANDSCAPES, SPACE


def split(count: int, seed: int = 0):
    configs = SPACE.sample_distinct(random.Random(seed), count + 400)
    return configs[:count], configs[count:]


@pytest.mark.parametrize(("name", "least"), [("gemm", 0.85), ("rugged", 0.8), ("deceptive", 0.7)])
def test_it_ranks_configs_it_has_not_seen(name, least) -> None:
    seen, unseen = split(120)
    cost = LANDSCAPES[name]
    model = CostModel(SPACE)
    model.fit(seen, [cost(config) for config in seen])
    rank = spearmanr(model.predict_us(unseen), [cost(config) for config in unseen]).statistic
    assert rank >= least


def test_failures_are_learned_as_slow() -> None:
    seen, unseen = split(150)
    times = [None if config["order"] == "nmk" else 100.0 for config in seen]
    model = CostModel(SPACE)
    model.fit(seen, times)
    found = model.predict_us(unseen)
    failing = np.array([config["order"] == "nmk" for config in unseen])
    assert found[failing].min() > found[~failing].max()


def test_knowing_nothing_all_are_alike() -> None:
    seen, _ = split(5)
    model = CostModel(SPACE)
    assert set(model.predict_us(seen)) == {1.0}
    model.fit(seen, [None] * 5)
    assert set(model.predict_us(seen)) == {1.0}
    assert model.predict_us([]).shape == (0,)


def test_one_trial_and_one_point_suffice() -> None:
    model = CostModel(SearchSpace((Knob("a", (1,)),)))
    model.fit([{"a": 1}], [5.0])
    np.testing.assert_allclose(model.predict_us([{"a": 1}]), [5.0])


def test_it_is_deterministic() -> None:
    seen, unseen = split(60)
    answers = []
    for _ in range(2):
        model = CostModel(SPACE)
        model.fit(seen, [LANDSCAPES["rugged"](config) for config in seen])
        answers.append(model.predict_us(unseen))
    np.testing.assert_array_equal(*answers)


def test_trees_fit_what_no_line_can(rng) -> None:
    features = rng.integers(0, 100, (400, 3)).astype(float)
    targets = ((features[:, 0] > 50) ^ (features[:, 1] > 30)).astype(float)
    fitted = BoostedTrees(num_trees=200).fit(features, targets)
    fresh = rng.integers(0, 100, (400, 3)).astype(float)
    wanted = (fresh[:, 0] > 50) ^ (fresh[:, 1] > 30)
    assert np.mean((fitted.predict(fresh) > 0.5) == wanted) > 0.9


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (1, 2)])
def test_trees_take_degenerate_input(shape) -> None:
    fitted = BoostedTrees().fit(np.zeros(shape), np.ones(shape[0]))
    np.testing.assert_allclose(fitted.predict(np.zeros(shape)), np.ones(shape[0]))
