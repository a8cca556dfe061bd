"""Feature operators of ai.onnx.ml, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.contrib import agrees, contrib_model, normal
from support.node_cases import cases_of, check, run_model

NAN = float("nan")


def _agrees(op: str, *arrays: np.ndarray, **attrs: Any) -> None:
    agrees(op, *arrays, domain="ai.onnx.ml", **attrs)


@pytest.mark.parametrize("name", cases_of("ArrayFeatureExtractor", "Binarizer"))
def test_node_case(name: str) -> None:
    check(name)


def test_array_feature_extractor() -> None:
    _agrees("ArrayFeatureExtractor", normal(2, 3, 4), np.asarray([[3, 0, 1]]))
    _agrees("ArrayFeatureExtractor", normal(4), np.asarray([2, 2]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
def test_scaler_normalizer_and_binarizer(dtype: type) -> None:
    x = (normal(3, 4) * 5).astype(dtype)
    _agrees("Scaler", x, offset=[1.0, 2.0, 3.0, -1.0], scale=[0.5, 2.0, 1.0, 3.0])
    _agrees("Scaler", x, offset=[1.0], scale=[0.5])
    for norm in ("MAX", "L1", "L2"):
        _agrees("Normalizer", x, norm=norm)
        _agrees("Normalizer", np.zeros((2, 3), dtype), norm=norm)
        _agrees("Normalizer", x[0], norm=norm)


def test_binarizer() -> None:
    _agrees("Binarizer", normal(3, 4), threshold=0.2)


def test_imputer() -> None:
    x = normal(3, 4)
    x[1, 2] = x[0, 0] = NAN
    _agrees("Imputer", x, replaced_value_float=NAN, imputed_value_floats=[7.0])
    _agrees("Imputer", x, replaced_value_float=NAN, imputed_value_floats=[7.0, 8.0, 9.0, 10.0])
    _agrees("Imputer", np.asarray([[1, -1], [-1, 4]]), replaced_value_int64=-1, imputed_value_int64s=[5, 6])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_one_hot_encoder(dtype: type) -> None:
    _agrees("OneHotEncoder", np.asarray([[1, 5], [7, 2]], dtype), cats_int64s=[5, 1, 2], zeros=1)


def test_feature_vectorizer() -> None:
    _agrees("FeatureVectorizer", normal(3, 4), normal(3, 2, seed=1), inputdimensions=[4, 2])
    _agrees("FeatureVectorizer", normal(3, 4), inputdimensions=[2])


def test_label_encoder() -> None:
    _agrees("LabelEncoder", np.asarray([[1, 4], [9, 2]]), keys_int64s=[4, 2, 1], values_floats=[0.5, 1.5, 2.5], default_float=-3.0)
    _agrees("LabelEncoder", np.asarray([1, 4, 9]), keys_int64s=[4, 1], values_int64s=[7, 8])
    floats = np.asarray([NAN, 1.5, 2.0], np.float32)
    _agrees("LabelEncoder", floats, keys_floats=[1.5, NAN], values_int64s=[7, 8])
    _agrees("LabelEncoder", floats, keys_floats=[1.5], values_floats=[7.0])


def test_label_encoder_of_tensors() -> None:
    import onnx

    tensors = {
        "keys_tensor": onnx.numpy_helper.from_array(np.asarray([3, 1, 3])),
        "values_tensor": onnx.numpy_helper.from_array(np.asarray([7, 8, 9], np.int16)),
        "default_tensor": onnx.numpy_helper.from_array(np.asarray([-5], np.int16)),
    }
    x = np.asarray([1, 2, 3])
    model = contrib_model("LabelEncoder", (x,), ["y"], domain="ai.onnx.ml", **tensors)
    (result,) = run_model(model, x)
    np.testing.assert_array_equal(result, np.asarray([8, -5, 9], np.int16))
