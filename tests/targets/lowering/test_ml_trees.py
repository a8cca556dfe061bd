"""Trees of ai.onnx.ml on random trees, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kopt.errors import UnsupportedModelError
from support.contrib import agrees, contrib_model, normal
from support.node_cases import cases_of, check, run_model

MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
FEATURES = 4


@pytest.mark.parametrize("name", cases_of("TreeEnsemble"))
def test_node_case(name: str) -> None:
    check(name)


def _trees(kind: str, targets: list[int], *, modes: list[str], depth: int = 4, count: int = 5, positive: bool = False) -> dict[str, Any]:
    """Random trees of unequal depth, as attributes of TreeEnsembleRegressor ("target") or TreeEnsembleClassifier ("class")."""
    random = np.random.default_rng(len(targets) + depth)
    nodes: dict[str, list[Any]] = {
        name: []
        for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids", "missing_value_tracks_true")
    }
    votes: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}

    def grow(tree: int, number: int, level: int) -> int:
        leaf = level == depth or (level and random.uniform() < 0.2)
        row = [
            tree,
            number,
            int(random.integers(FEATURES)),
            float(np.float32(random.normal())),
            "LEAF" if leaf else str(random.choice(modes)),
            0,
            0,
        ]
        place = len(nodes["treeids"])
        for name, value in zip(nodes, [*row, int(random.integers(2))], strict=True):
            nodes[name].append(value)
        if leaf:
            for target in targets:
                for name, value in zip(
                    votes, (tree, number, target, float(np.float32(abs(random.normal()) if positive else random.normal()))), strict=True
                ):
                    votes[name].append(value)
            return number + 1
        nodes["truenodeids"][place] = number + 1
        nodes["falsenodeids"][place] = behind = grow(tree, number + 1, level + 1)
        return grow(tree, behind, level + 1)

    for tree in range(count):
        grow(tree, 0, 0)
    return {f"nodes_{name}": values for name, values in nodes.items()} | {f"{kind}_{name}": values for name, values in votes.items()}


def _features(dtype: type = np.float32) -> np.ndarray:
    x = normal(20, FEATURES).astype(dtype)
    if np.issubdtype(dtype, np.floating):
        x[3, 1] = x[5, 0] = x[6] = np.nan
    return x


def _agrees(op: str, x: np.ndarray, **attrs: Any) -> None:
    agrees(op, x, domain="ai.onnx.ml", outputs=2 if op == "TreeEnsembleClassifier" else 1, **attrs)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
def test_regressor(targets: int, aggregate: str) -> None:
    attrs = _trees("target", list(range(targets)), modes=["BRANCH_LEQ"])
    _agrees("TreeEnsembleRegressor", _features(), n_targets=targets, aggregate_function=aggregate, **attrs)
    _agrees("TreeEnsembleRegressor", _features(), n_targets=targets, base_values=[0.5, 1.0, 2.0][:targets], **attrs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_comparisons_and_types(dtype: type) -> None:
    attrs = _trees("target", [0], modes=MODES)
    _agrees("TreeEnsembleRegressor", _features(dtype), n_targets=1, **attrs)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_classifier(transform: str) -> None:
    attrs = _trees("class", [0, 1, 2], modes=["BRANCH_LT"])
    _agrees("TreeEnsembleClassifier", _features(), classlabels_int64s=[5, 7, 9], post_transform=transform, **attrs)
    _agrees("TreeEnsembleClassifier", _features(), classlabels_int64s=[5, 7, 9], base_values=[0.5, 0.1, -0.4], **attrs)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("positive", [False, True])
def test_classifier_of_two_classes(positive: bool, transform: str) -> None:
    one = _trees("class", [0], modes=["BRANCH_LEQ"], positive=positive)
    _agrees("TreeEnsembleClassifier", _features(), classlabels_int64s=[5, 7], post_transform=transform, **one)
    _agrees("TreeEnsembleClassifier", _features(), classlabels_int64s=[5, 7], post_transform=transform, base_values=[0.3], **one)


def test_both_of_two_classes_have_scores() -> None:
    """The labels of the higher ones; ONNX Runtime gives 0 and 1 whatever the labels are."""
    attrs = _trees("class", [0, 1], modes=["BRANCH_LEQ"])
    model = contrib_model("TreeEnsembleClassifier", (_features(),), ["y", "z"], domain="ai.onnx.ml", classlabels_int64s=[5, 7], **attrs)
    labels, scores = run_model(model, _features())
    as_targets = {name.replace("class_", "target_"): value for name, value in attrs.items()}
    (expected,) = run_model(
        contrib_model("TreeEnsembleRegressor", (_features(),), ["y"], domain="ai.onnx.ml", n_targets=2, **as_targets), _features()
    )
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    np.testing.assert_array_equal(labels, np.where(expected[:, 1] > expected[:, 0], 7, 5))


def test_cycles_and_missing_features_are_refused() -> None:
    attrs = _trees("target", [0], modes=["BRANCH_LEQ"], count=1)
    for change in ({"nodes_falsenodeids": [0] * len(attrs["nodes_modes"])}, {"nodes_featureids": [9] * len(attrs["nodes_modes"])}):
        model = contrib_model("TreeEnsembleRegressor", (_features(),), ["y"], domain="ai.onnx.ml", n_targets=1, **(attrs | change))
        with pytest.raises(UnsupportedModelError):
            run_model(model, _features())
