"""Random operators: types, shapes, moments, and the same numbers for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from support.graphs import node_model
from support.node_cases import cases_of, check, run_model

_TRAINING = [name for name in cases_of("Dropout") if name.startswith("test_training_dropout") and "zero_ratio" not in name]


@pytest.mark.parametrize("name", cases_of("Dropout", without=_TRAINING))
def test_dropout_that_keeps_everything(name: str) -> None:
    check(name)


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniform"])
@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE])
def test_drawn_by_seed(op: str, dtype: int) -> None:
    attrs: dict[str, Any] = {"mean": 3.0, "scale": 2.0} if op == "RandomNormal" else {"low": 1.0, "high": 5.0}
    model = node_model(op, {}, opset=21, shape=[100, 50], dtype=dtype, seed=7.0, **attrs)
    first, again = run_model(model)[0], run_model(model)[0]
    assert first.dtype == onnx.helper.tensor_dtype_to_np_dtype(dtype)
    np.testing.assert_array_equal(first, again)
    wide = first.astype(np.float64)
    assert abs(wide.mean() - 3) < 0.15
    assert abs(wide.std() - (2 if op == "RandomNormal" else 4 / 12**0.5)) < 0.15
    (other,) = run_model(node_model(op, {}, opset=21, shape=[100, 50], dtype=dtype, seed=8.0, **attrs))
    assert (other != first).any()


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike"])
def test_like_takes_shape_and_type(op: str) -> None:
    x = np.zeros((3, 0, 5), np.float32)
    assert run_model(node_model(op, {"x": x}, opset=21), x)[0].shape == (3, 0, 5)
    y = np.zeros((4, 5), np.float64)
    assert run_model(node_model(op, {"x": y}, opset=21), y)[0].dtype == np.float64
    assert run_model(node_model(op, {"x": y}, opset=21, dtype=10), y)[0].dtype == np.float16


def test_bernoulli() -> None:
    x = np.repeat(np.asarray([[0.0], [0.25], [1.0]], np.float32), 2000, 1)
    (result,) = run_model(node_model("Bernoulli", {"x": x}, opset=21, seed=1.0), x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.mean(1), [0, 0.25, 1], atol=0.05)
    assert run_model(node_model("Bernoulli", {"x": x}, opset=21, dtype=9), x)[0].dtype == np.bool_


@pytest.mark.parametrize("dtype", [6, 7])
def test_multinomial(dtype: int) -> None:
    x = np.log(np.asarray([[0.1, 0.6, 0.3], [1, 0, 0]]) + 1e-9).astype(np.float32)
    (result,) = run_model(node_model("Multinomial", {"x": x}, opset=21, dtype=dtype, sample_size=3000, seed=2.0), x)
    assert result.shape == (2, 3000)
    assert result.dtype == onnx.helper.tensor_dtype_to_np_dtype(dtype)
    np.testing.assert_allclose(np.bincount(result[0], minlength=3) / 3000, [0.1, 0.6, 0.3], atol=0.05)
    assert (result[1] == 0).all()


def test_dropout_in_training() -> None:
    x, ratio, training = np.ones((100, 100), np.float32), np.asarray(0.25, np.float32), np.asarray(True)
    model = node_model("Dropout", {"x": x, "ratio": ratio, "t": training}, opset=21, outputs=("y", "mask"), constants=("t",), seed=3)
    result, mask = run_model(model, x, ratio)
    np.testing.assert_allclose(result, np.where(mask, 1 / 0.75, 0), rtol=1e-6)
    assert abs(mask.mean() - 0.75) < 0.02
