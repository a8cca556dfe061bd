"""Activations against the formulas of the standard in f64, at the edges of floats too."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import erf
from typing import Any

import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.types import DType
from kopt.targets.xla import evaluate_node
from support.node_cases import cases_of, check


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


def _tanh_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _selu(x: np.ndarray) -> np.ndarray:
    return 1.0507009873554805 * _elu(x, 1.6732632423543772)


ACTIVATIONS: dict[str, tuple[str, dict[str, Any], Callable[[np.ndarray], Any]]] = {
    "relu": ("Relu", {}, lambda x: np.maximum(x, 0)),
    "leaky": ("LeakyRelu", {"alpha": 0.25}, lambda x: np.where(x < 0, 0.25 * x, x)),
    "sigmoid": ("Sigmoid", {}, _sigmoid),
    "elu": ("Elu", {"alpha": 1.5}, lambda x: _elu(x, 1.5)),
    "celu": ("Celu", {"alpha": 2.0}, lambda x: np.maximum(x, 0) + np.minimum(0, 2 * np.expm1(np.minimum(x, 0) / 2))),
    "selu": ("Selu", {}, _selu),
    "gelu": ("Gelu", {}, lambda x: 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))),
    "gelu by tanh": ("Gelu", {"approximate": "tanh"}, _tanh_gelu),
    "hard sigmoid": ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}, lambda x: np.clip(0.25 * x + 0.5, 0, 1)),
    "hard swish": ("HardSwish", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "mish": ("Mish", {}, lambda x: x * np.tanh(_softplus(x))),
    "softplus": ("Softplus", {}, _softplus),
    "softsign": ("Softsign", {}, lambda x: x / (1 + np.abs(x))),
    "swish": ("Swish", {"alpha": 1.5}, lambda x: x * _sigmoid(1.5 * x)),
    "thresholded": ("ThresholdedRelu", {"alpha": 0.5}, lambda x: np.where(x > 0.5, x, 0)),
    "shrink": ("Shrink", {"lambd": 0.5, "bias": 0.25}, lambda x: np.where(x < -0.5, x + 0.25, np.where(x > 0.5, x - 0.25, 0))),
}
TOLERANCE = {"f16": 2e-3, "bf16": 1.6e-2, "f32": 1e-5, "f64": 1e-7}


def _run(op: str, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
    b = Builder()
    b.emit(op, *(b.input(f"x{k}", DType.from_numpy(array.dtype), array.shape) for k, array in enumerate(arrays)), attrs=attrs)
    (result,) = evaluate_node(b.nodes[0], list(arrays))
    assert result.dtype == arrays[0].dtype
    return result


def _close(result: np.ndarray, expected: Any, dtype: str) -> None:
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# the standard has no Shrink of bf16
@pytest.mark.parametrize(("name", "dtype"), [pair for pair in product(ACTIVATIONS, TOLERANCE) if pair != ("shrink", "bf16")])
def test_values(name: str, dtype: str) -> None:
    op, attrs, formula = ACTIVATIONS[name]
    x = np.random.default_rng(4).normal(0, 3, (3, 5, 7)).astype(DType(dtype).numpy)
    _close(_run(op, x, **attrs), formula(x.astype(np.float64)), dtype)


@pytest.mark.parametrize("shape", [(), (0, 3)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_scalars_and_nothing(name: str, shape: tuple[int, ...]) -> None:
    op, attrs, formula = ACTIVATIONS[name]
    x = np.full(shape, -0.75, np.float32)
    result = _run(op, x, **attrs)
    assert result.shape == shape
    if result.size:
        _close(result, formula(x.astype(np.float64)), "f32")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_far_out(name: str, dtype: str) -> None:
    op, attrs, formula = ACTIVATIONS[name]
    x = np.array([-3e4, -200, -88.7, -40, -0.0, 0.0, 1e-30, 40, 88.7, 200, 3e4], DType(dtype).numpy)
    with np.errstate(all="ignore"):
        expected = formula(x.astype(np.float64))
    result = _run(op, x, **attrs)
    np.testing.assert_allclose(result, expected, rtol=TOLERANCE[dtype], atol=1e-30)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_infinities(name: str) -> None:
    op, attrs, formula = ACTIVATIONS[name]
    x = np.array([-np.inf, np.inf], np.float32)
    with np.errstate(all="ignore"):
        expected = formula(x.astype(np.float64))
    np.testing.assert_allclose(_run(op, x, **attrs), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name not in ("thresholded", "shrink")])
def test_nan_stays(name: str) -> None:
    op, attrs, _ = ACTIVATIONS[name]
    assert np.isnan(_run(op, np.array([np.nan, 1], np.float32), **attrs)).tolist() == [True, False]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int, dtype: str) -> None:
    x = np.random.default_rng(4).normal(0, 5, (3, 4, 5)).astype(DType(dtype).numpy)
    wide = x.astype(np.float64)
    exponents = np.exp(wide - wide.max(axis, keepdims=True))
    total = exponents.sum(axis, keepdims=True)
    _close(_run("Softmax", x, axis=axis), exponents / total, dtype)
    _close(_run("LogSoftmax", x, axis=axis), wide - wide.max(axis, keepdims=True) - np.log(total), dtype)
    hard = _run("Hardmax", x, axis=axis).astype(np.float64)
    places = np.indices(x.shape)[axis]
    np.testing.assert_array_equal(hard, places == wide.argmax(axis, keepdims=True))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_maxima_of_nothing(shape: tuple[int, ...], op: str) -> None:
    assert _run(op, np.zeros(shape, np.float32)).shape == shape


def test_softmax_at_the_edges_of_floats() -> None:
    x = np.array([[1e30, 1e30, 0], [-1e30, -1e30, -1e30], [0, -np.inf, -np.inf], [np.nan, 0, 0]], np.float32)
    result = _run("Softmax", x)
    np.testing.assert_allclose(result[:3], [[0.5, 0.5, 0], [1 / 3] * 3, [1, 0, 0]], rtol=1e-6)
    assert np.isnan(result[3]).all()


def test_the_first_of_equal_maxima_is_hard() -> None:
    assert _run("Hardmax", np.array([[2, 5, 5]], np.float32)).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("slope", [(), (4,), (3, 1), (2, 1, 1), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_slopes_broadcast(dtype: Any, slope: tuple[int, ...]) -> None:
    x = np.random.default_rng(4).normal(0, 5, (2, 3, 4)).astype(dtype)
    factor = np.random.default_rng(5).normal(0, 5, slope).astype(dtype)
    np.testing.assert_allclose(_run("PRelu", x, factor), np.where(x < 0, factor * x, x), rtol=1e-6)


def test_integers() -> None:
    x = np.array([-3, 0, 3], np.int8)
    assert _run("Relu", x).tolist() == [0, 0, 3]
    assert _run("Shrink", x, lambd=1.5, bias=1.0).tolist() == [-2, 0, 2]


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_gated(alpha: float) -> None:
    gate, up = (np.random.default_rng(seed).normal(0, 3, (2, 3, 4)).astype(np.float32) for seed in (1, 2))
    _close(_run("SwiGLU", gate, up, alpha=alpha), gate * _sigmoid(alpha * gate) * up, "f32")


@pytest.mark.parametrize("name", cases_of("Softmax", "LogSoftmax", "Hardmax", "PRelu", "SwiGLU", "Gelu", "Shrink", "Mish", "Celu"))
def test_node_case(name: str) -> None:
    check(name)
