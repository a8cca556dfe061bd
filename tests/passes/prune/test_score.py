"""Importance, rounding of widths, and weights that stand in for what went."""

from __future__ import annotations

import numpy as np
import pytest

from kopt.errors import UsageError
from kopt.passes.base import PassContext
from kopt.passes.prune.channels import PruneChannels
from kopt.passes.prune.cut import cut
from kopt.passes.prune.groups import dependencies
from kopt.passes.prune.rebuild import compensate
from kopt.passes.prune.record import KEY, kept_axes, recorded
from kopt.passes.prune.score import consumed_axis, consumed_input, kept_count, reconstruction_scores, selected, weight_scores
from kopt.passes.spec import format_pass, parse_passes
from support.equivalence import run_graph
from support.graphs import graph as parsed
from support.transformer import transformer


@pytest.mark.parametrize(
    ("units", "ratio", "span", "kept"),
    [
        (64, 0.5, 1, 32),
        (48, 0.5, 1, 24),
        (12, 0.5, 64, 6),
        (100, 0.5, 1, 48),
        (3, 0.5, 1, 2),
        (2, 0.9, 1, 1),
        (256, 0.3, 1, 176),
        (5, 0.0, 1, 5),
    ],
)
def test_widths_are_multiples_of_vectors_where_one_is_near(units: int, ratio: float, span: int, kept: int) -> None:
    assert kept_count(units, ratio, span) == kept


def mlp(w1: np.ndarray, w2: np.ndarray):
    from kopt.ir.constant import Constant

    graph = parsed("m (float[N,4] x, float[4,6] w1, float[6,3] w2) => (float[N,3] y) { h = MatMul(x, w1) a = Relu(h) y = MatMul(a, w2) }")
    x, first, second = graph.inputs
    arrays = {first: Constant.of(w1.astype(np.float32)), second: Constant.of(w2.astype(np.float32))}
    return graph.replace(inputs=(x,), constants={**graph.constants, **arrays})


def test_the_smallest_weights_score_least() -> None:
    w1, w2 = np.ones((4, 6)), np.ones((6, 3))
    w1[:, 2] = w2[2] = 0.1
    graph = mlp(w1, w2)
    (group,) = dependencies(graph).groups
    assert np.argmin(weight_scores(graph, group)) == 2


def test_a_channel_that_others_make_up_for_scores_least_and_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(4, 6)), rng.normal(size=(6, 3))
    w1[:, 5] = 2 * w1[:, 1]  # relu(2 h) = 2 relu(h)
    graph = mlp(w1, w2)
    found = dependencies(graph)
    (group,) = found.groups
    (place,) = [place for place in group.places if place.consumer is not None]
    assert consumed_input(place).name == "a"
    assert consumed_axis(place) == 1
    x = rng.normal(size=(200, 4)).astype(np.float32)
    a = np.maximum(x @ w1, 0)
    grams = {place: a.T @ a / len(a)}
    scores = reconstruction_scores(graph, group, grams)
    assert set(np.argsort(scores)[:2]) == {1, 5}
    removed = selected(found, {0: scores}, 1 / 6)
    assert len(removed) == 1
    smaller = compensate(cut(found, removed), found, removed, grams)
    (wanted,), (mine,) = run_graph(graph, {"x": x}), run_graph(smaller, {"x": x})
    np.testing.assert_allclose(mine, wanted, atol=0.02 * np.abs(wanted).max())


def test_what_is_kept_is_recorded_over_two_prunings() -> None:
    graph = transformer(np.random.default_rng(0))
    once = PruneChannels(ratio=0.5).run(graph, PassContext())
    twice = PruneChannels(ratio=0.5).run(once, PassContext())
    first, second = kept_axes(once), kept_axes(twice)
    assert len(first["h1"][2]) > len(second["h1"][2])
    assert set(second["h1"][2]) < set(first["h1"][2])
    held = {value.name: constant.array() for value, constant in graph.constants.items()}
    small = {value.name: constant.array() for value, constant in twice.constants.items()}
    np.testing.assert_array_equal(small["b1"], held["b1"][second["h1"][2]])


def test_foreign_metadata_is_told() -> None:
    from kopt.errors import InvalidModelError

    graph = transformer(np.random.default_rng(0)).replace(metadata={KEY: '{"values": 3}'})
    with pytest.raises(InvalidModelError, match="not what pruning writes"):
        kept_axes(graph)
    found = dependencies(graph.replace(metadata={}))
    assert kept_axes(recorded(found.graph, found, ())) == {}


def test_the_pass_is_spelled_and_changes_nothing_at_zero() -> None:
    graph = transformer(np.random.default_rng(0))
    (found,) = parse_passes("prune-channels{ratio=0.25}")
    assert format_pass(found) == "prune-channels{ratio=0.25}"
    assert PruneChannels(ratio=0.0).run(graph, PassContext()) is graph
    with pytest.raises(UsageError, match="no share"):
        PruneChannels(ratio=1.0).run(graph, PassContext())
