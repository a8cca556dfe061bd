"""Linear models and support vector machines of ai.onnx.ml, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.contrib import agrees, contrib_model, normal
from support.graphs import run_reference
from support.node_cases import run_model

TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]
KERNELS = {"LINEAR": [0.0, 0.0, 0.0], "POLY": [0.3, 0.2, 3.0], "RBF": [0.3, 0.0, 0.0], "SIGMOID": [0.2, 0.1, 0.0]}


def _agrees(op: str, *arrays: np.ndarray, outputs: int = 1, **attrs: Any) -> None:
    agrees(op, *arrays, domain="ai.onnx.ml", outputs=outputs, **attrs)


def _list(*shape: int, seed: int) -> list[float]:
    return [float(item) for item in normal(*shape, seed=seed).ravel()]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_linear(transform: str) -> None:
    x = normal(7, 4)
    three = {"coefficients": _list(3, 4, seed=1), "intercepts": [0.1, -0.2, 0.3], "post_transform": transform}
    _agrees("LinearRegressor", x, targets=3, **three)
    _agrees("LinearClassifier", x, outputs=2, classlabels_ints=[5, 7, 9], **three)
    one = {"coefficients": _list(4, seed=1), "intercepts": [0.1], "classlabels_ints": [5, 7]}
    if transform in ("NONE", "LOGISTIC"):
        _agrees("LinearClassifier", x, outputs=2, post_transform=transform, **one)


def test_linear_regressor_of_integers_and_probit() -> None:
    _agrees("LinearRegressor", normal(7, 4), coefficients=_list(4, seed=1))
    x = np.random.default_rng(0).uniform(0.01, 1, (7, 1)).astype(np.float32)  # ONNX Runtime's inverse error function is coarse
    _agrees("LinearRegressor", x, coefficients=[0.9], post_transform="PROBIT", rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_svm_regressor(kernel: str) -> None:
    attrs = {"coefficients": _list(5, seed=1), "support_vectors": _list(5, 4, seed=2), "rho": [0.2], "n_supports": 5}
    for one_class in (0, 1):
        _agrees("SVMRegressor", normal(7, 4), kernel_type=kernel, kernel_params=KERNELS[kernel], one_class=one_class, **attrs)
    _agrees("SVMRegressor", normal(7, 4), coefficients=_list(4, seed=1), rho=[0.2], kernel_type="LINEAR", kernel_params=KERNELS["LINEAR"])


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_svm_classifier(kernel: str, probabilities: bool) -> None:
    attrs = {"coefficients": _list(2, 6, seed=1), "support_vectors": _list(6, 4, seed=2), "rho": [0.1, 0.2, -0.3]}
    if probabilities:
        attrs |= {"prob_a": [0.5, 0.3, 0.2], "prob_b": [0.1, 0.1, 0.0]}
    attrs |= {"kernel_type": kernel, "kernel_params": KERNELS[kernel], "vectors_per_class": [2, 3, 1]}
    _agrees("SVMClassifier", normal(7, 4), outputs=2, classlabels_ints=[5, 7, 9], rtol=1e-3, **attrs)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_svm_of_two_classes(transform: str, probabilities: bool) -> None:
    attrs = {"coefficients": _list(1, 5, seed=1), "support_vectors": _list(5, 4, seed=2), "rho": [0.1], "post_transform": transform}
    if probabilities:
        attrs |= {"prob_a": [-0.5], "prob_b": [0.1]}
    attrs |= {"kernel_type": "RBF", "kernel_params": KERNELS["RBF"], "vectors_per_class": [2, 3]}
    _agrees("SVMClassifier", normal(7, 4), outputs=2, classlabels_ints=[5, 7], rtol=1e-3, **attrs)


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_svm_classifier(classes: int) -> None:
    """Against the reference: of two classes ONNX Runtime gives always the second."""
    x = normal(7, 4)
    attrs = {"coefficients": _list(classes, 4, seed=1), "classlabels_ints": [5, 7, 9][:classes], "kernel_type": "LINEAR"}
    attrs["rho"] = [0.1] * (1 if classes == 2 else classes)
    model = contrib_model("SVMClassifier", (x,), ["y", "z"], domain="ai.onnx.ml", post_transform="NONE", **attrs)
    labels, scores = run_reference(model, {"i0": x})
    results = run_model(model, x)
    np.testing.assert_array_equal(results[0], labels)
    np.testing.assert_allclose(results[1], scores, rtol=1e-4, atol=1e-5)
