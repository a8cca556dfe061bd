"""Normalizations against onnx.reference, and against plain numpy where the reference has its own reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.types import DType
from kopt.targets import reference
from kopt.targets.xla import evaluate_node
from support.node_cases import cases_of, check


def _run(op: str, *arrays: np.ndarray, outputs: int = 1, evaluator: Any = evaluate_node, **attrs: Any) -> tuple[np.ndarray, ...]:
    b = Builder()
    values = [b.input(f"x{k}", DType.from_numpy(array.dtype), array.shape) for k, array in enumerate(arrays)]
    b.emit_many(op, *values, attrs=attrs, num_outputs=outputs)
    results: tuple[np.ndarray, ...] = evaluator(b.nodes[0], list(arrays))
    if evaluator is evaluate_node:
        assert [result.dtype for result in results] == [value.tensor.dtype.numpy for value in b.nodes[0].outputs]
    return results


def _agrees(op: str, *arrays: np.ndarray, outputs: int = 1, **attrs: Any) -> None:
    ours = _run(op, *arrays, outputs=outputs, **attrs)
    theirs = _run(op, *arrays, outputs=outputs, evaluator=reference.evaluate_node, **attrs)
    for result, wanted in zip(ours, theirs, strict=True):
        assert result.shape == wanted.shape
        tolerance = {2: 2e-3, 4: 2e-5, 8: 1e-8}[result.dtype.itemsize]
        np.testing.assert_allclose(result.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance)


def _random(*shape: int, dtype: Any = np.float32, seed: int = 5) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) + 0.5).astype(dtype)


FLOATS = [np.float16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_layer(axis: int, dtype: Any) -> None:
    x = _random(3, 4, 5, dtype=dtype)
    scale, bias = _random(*x.shape[axis:], dtype=dtype, seed=1), _random(*x.shape[axis:], dtype=dtype, seed=2)
    _agrees("LayerNormalization", x, scale, bias, axis=axis)
    _agrees("LayerNormalization", x, scale, axis=axis, epsilon=0.1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_statistics_of_a_layer_have_the_stash_type(dtype: Any) -> None:
    x = _random(3, 4, 7, dtype=dtype)
    y, mean, inverse = _run("LayerNormalization", x, np.ones(7, dtype), outputs=3)
    assert y.dtype == dtype
    assert mean.dtype == inverse.dtype == np.float32
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(-1, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inverse, 1 / np.sqrt(wide.var(-1, keepdims=True) + 1e-5), rtol=1e-5)


def test_a_constant_row_becomes_the_bias() -> None:
    (y,) = _run("LayerNormalization", np.full((2, 8), 3, np.float32), np.ones(8, np.float32), np.full(8, 7, np.float32))
    assert (y == 7).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [-1, 1])
def test_rms(axis: int, dtype: Any) -> None:
    x = _random(3, 4, 5, dtype=dtype)
    _agrees("RMSNormalization", x, _random(*x.shape[axis:], dtype=dtype, seed=1), axis=axis)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (1, 4, 3, 5), (2, 4, 3, 2, 5), (0, 4, 3)])
def test_batch(shape: tuple[int, ...], dtype: Any) -> None:
    scale, bias, mean = (_random(4, dtype=dtype, seed=seed) for seed in range(3))
    _agrees("BatchNormalization", _random(*shape, dtype=dtype), scale, bias, mean, np.abs(_random(4, dtype=dtype, seed=8)) + dtype(0.1))


def test_batch_in_training() -> None:
    x, vectors = _random(3, 4, 5), [np.abs(_random(4, seed=seed)) for seed in range(4)]
    _agrees("BatchNormalization", x, *vectors, outputs=3, training_mode=1, momentum=0.7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 6, 7), (1, 6, 3, 5), (2, 6, 2, 3, 4)])
def test_instance_and_group(shape: tuple[int, ...], dtype: Any) -> None:
    x, scale, bias = _random(*shape, dtype=dtype), _random(6, dtype=dtype, seed=1), _random(6, dtype=dtype, seed=2)
    _agrees("InstanceNormalization", x, scale, bias)
    for groups in (1, 3, 6):
        (y,) = _run("GroupNormalization", x, scale, bias, num_groups=groups, epsilon=0.1)
        grouped = x.reshape(len(x), groups, -1)
        expected = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 0.1)
        channel = (6, *[1] * (x.ndim - 2))
        np.testing.assert_allclose(y, expected.reshape(shape) * scale.reshape(channel) + bias.reshape(channel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, -1])
def test_norm(axis: int, p: int) -> None:
    x = _random(3, 4, 5)
    x[1], x[:, :, 2] = 0, 0  # a norm of 0 gives 0
    norm = np.linalg.norm(x.astype(np.float64), p, axis, keepdims=True)
    (y,) = _run("LpNormalization", x, axis=axis, p=p)
    np.testing.assert_allclose(y, x / np.where(norm == 0, 1, norm), rtol=1e-5)


@pytest.mark.parametrize("axes", [(0, 2, 3), (-1,), (1, 2)])
def test_mean_and_variance(axes: tuple[int, ...]) -> None:
    _agrees("MeanVarianceNormalization", _random(3, 4, 5, 6), axes=axes)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_local_response(size: int) -> None:
    x = _random(2, 6, 3, 4)
    (y,) = _run("LRN", x, size=size, alpha=0.5, beta=0.6, bias=1.5)
    for channel in range(6):
        near = x[:, max(0, channel - (size - 1) // 2) : channel + size // 2 + 1]
        expected = x[:, channel] / (1.5 + 0.5 / size * (near**2).sum(1)) ** 0.6
        np.testing.assert_allclose(y[:, channel], expected, rtol=1e-5)


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_nan_spoils_its_own_row(op: str) -> None:
    x = _random(3, 8)
    x[1, 2] = np.nan
    (y,) = _run(op, x, np.ones(8, np.float32))
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


CASES = ("LayerNormalization", "RMSNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN")


@pytest.mark.parametrize("name", cases_of(*CASES))
def test_node_case(name: str) -> None:
    check(name)
