"""Comparison of outputs, and who answers for the truth."""

from __future__ import annotations

import numpy as np
import pytest

from kopt import references
from kopt.references import compare, reference_outputs
from support import graphs


def one(ours, theirs) -> dict:
    return compare(["y"], [np.asarray(ours)], [np.asarray(theirs)])


def test_errors_are_relative_to_the_largest_output() -> None:
    found = one(np.float32([1.0, 4.5]), np.float32([1.0, 4.0]))
    assert (found["worst"], found["max_abs"], found["mean_abs"], found["relative"]) == ("y", 0.5, 0.25, 0.125)


def test_the_worst_output_is_named() -> None:
    zero = np.zeros(2, np.float32)
    found = compare(["a", "b", "c"], [zero, zero + 1, zero], [zero, zero, zero])
    assert (found["worst"], found["relative"]) == ("b", 1.0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([np.nan], [1.0]),
        ([1.0], [np.nan]),
        ([np.inf], [1.0]),
        ([np.inf], [-np.inf]),
        ([np.nan], [np.inf]),
        ([[1.0]], [1.0]),
    ],
)
def test_nan_infinity_and_shape_must_agree(ours, theirs) -> None:
    assert not one(np.float32(ours), np.float32(theirs))["relative"] <= 1e3


@pytest.mark.parametrize("same", [[np.nan, 1.0], [np.inf, 2.0], [-np.inf], [], [0.0]])
def test_equal_outputs_have_no_error(same) -> None:
    assert one(np.float32(same), np.float32(same))["relative"] == 0


def test_strings_and_integers() -> None:
    assert one(np.array(["a"], object), np.array(["a"], object))["relative"] == 0
    assert one(np.array(["a"], object), np.array(["b"], object))["relative"] == np.inf
    assert one(np.int64([3]), np.int64([4]))["relative"] == 0.25


@pytest.mark.parametrize("installed", [True, False])
def test_the_reference_is_named_and_right(monkeypatch, rng, installed) -> None:
    if not installed:
        monkeypatch.setattr(references, "available", lambda kind: False)
    graph = graphs.graph("m (float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
    x = rng.standard_normal((2, 3)).astype(np.float32)
    found = reference_outputs(graph, {"x": (2, 3)}, {"x": x})
    assert found.name.startswith("ONNX Runtime " if installed else "onnx.reference")
    np.testing.assert_array_equal(found.outputs[0], -x)


def test_large_models_fall_back_to_kopt_without_passes(monkeypatch, rng) -> None:
    monkeypatch.setattr(references, "available", lambda kind: False)
    monkeypatch.setattr(references, "SMALL_FLOPS", 0)
    graph = graphs.graph("m (float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
    x = rng.standard_normal((2, 3)).astype(np.float32)
    found = reference_outputs(graph, {"x": (2, 3)}, {"x": x})
    assert found.name == "kopt without passes"
    np.testing.assert_array_equal(found.outputs[0], -x)
