"""Zeros in weights: how many, where, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from kopt.errors import UsageError
from kopt.passes.base import PassContext
from kopt.passes.prune.masks import MaskWeights, block_masks, magnitude_masks, prunable
from support.graphs import graph as parsed
from support.transformer import transformer


def test_the_largest_stay() -> None:
    graph = transformer(np.random.default_rng(0))
    masks = magnitude_masks(graph, 0.7)
    assert sum(mask.sum() for mask in masks.values()) == pytest.approx(0.3 * sum(mask.size for mask in masks.values()), rel=0.02)
    for value, mask in masks.items():
        array = np.abs(graph.constants[value].array())
        assert array[mask].min() >= array[~mask].max()
    assert {value.name for value in masks} == {"wq", "wk", "wv", "wo", "w1", "w2"}


def test_inputs_without_energy_need_no_weights() -> None:
    graph = transformer(np.random.default_rng(0))
    value = next(value for value, _, _ in prunable(graph) if value.name == "w1")
    energy = np.where(np.arange(12) < 6, 1.0, 0.0)
    mask = magnitude_masks(graph, 0.5, {value: energy})[value]
    assert mask[:6].any()
    assert not mask[6:].any()
    assert not block_masks(graph, 2, 4, {value: energy})[value][6:8].any()


def test_no_layer_is_emptied() -> None:
    masks = magnitude_masks(transformer(np.random.default_rng(0)), 0.99)
    assert all(mask.any() for mask in masks.values())


def test_two_of_four_along_the_summed_axis() -> None:
    graph = transformer(np.random.default_rng(0))
    axes = {value.name: axis for value, axis, _ in prunable(graph)}
    masks = block_masks(graph, 2, 4)
    assert axes["w1"] == 0
    for value, mask in masks.items():
        blocks = np.moveaxis(mask, axes[value.name], -1).reshape(-1, 4)
        assert (blocks.sum(1) == 2).all()


def test_the_pass_keeps_everything_else() -> None:
    graph = transformer(np.random.default_rng(0))
    result = MaskWeights(pattern="1:4").run(graph, PassContext())
    assert result.nodes is graph.nodes
    assert {value.name for value in graph.constants if result.constants[value] is graph.constants[value]} >= {"bq", "s", "b1"}
    empty = parsed("m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    assert MaskWeights().run(empty, PassContext()) is empty


@pytest.mark.parametrize("options", [{"sparsity": 1.0}, {"pattern": "4:4"}, {"pattern": "x"}])
def test_what_is_no_pattern(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        MaskWeights(**options).run(transformer(np.random.default_rng(0)), PassContext())
