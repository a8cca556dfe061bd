"""Quantized operators of ONNX Runtime, against ONNX Runtime; results may differ by one step of rounding."""

from __future__ import annotations

import numpy as np
import pytest

from support.contrib import agrees, normal

DTYPES = [np.uint8, np.int8]


def _ints(dtype: type, *shape: int, seed: int = 0) -> np.ndarray:
    bounds = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(bounds.min, bounds.max, shape, dtype, endpoint=True)


def _scale(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def _zero(dtype: type, value: int = 3) -> np.ndarray:
    return np.asarray(value, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary(op: str, dtype: type) -> None:
    a, b = _ints(dtype, 2, 3, 5), _ints(dtype, 3, 1, seed=1)
    agrees(op, a, _scale(0.1), _zero(dtype), b, _scale(0.2), _zero(dtype, 7), _scale(0.3), _zero(dtype, 1), steps=1)
    agrees(op, a, _scale(0.1), _zero(dtype, 0), b, _scale(0.2), _zero(dtype, 0), _scale(0.3), steps=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_and_leaky_relu(dtype: type) -> None:
    x = _ints(dtype, 3, 7)
    agrees("QLinearSigmoid", x, _scale(0.05), _zero(dtype), _scale(0.004), _zero(dtype, 0), steps=1)
    agrees("QLinearLeakyRelu", x, _scale(0.05), _zero(dtype), _scale(0.06), _zero(dtype, 2), alpha=0.2, steps=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("opset", "axis"), [(13, -1), (13, 1), (12, 1)])
def test_softmax(dtype: type, opset: int, axis: int) -> None:
    x = _ints(dtype, 2, 3, 5)
    zero = _zero(dtype, np.iinfo(dtype).min)
    agrees("QLinearSoftmax", x, _scale(0.02), _zero(dtype), _scale(1 / 256), zero, constants=(1, 2, 3, 4), opset=opset, axis=axis, steps=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [0, 1])
def test_average_pools(dtype: type, last: int) -> None:
    x = _ints(dtype, *((2, 7, 6, 3) if last else (2, 3, 7, 6)))
    rest = (_scale(0.1), _zero(dtype), _scale(0.07), _zero(dtype, 9))
    agrees("QLinearGlobalAveragePool", x, *rest, channels_last=last, steps=1)
    attrs = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "channels_last": last}
    agrees("QLinearAveragePool", x, *rest, **attrs, steps=1)
    agrees("QLinearAveragePool", x, *rest, **attrs, count_include_pad=1, ceil_mode=1, steps=1)


def test_concat() -> None:
    first, second = _ints(np.uint8, 2, 3), _ints(np.uint8, 2, 4, seed=1)
    triples = (first, _scale(0.1), _zero(np.uint8), second, _scale(0.3), _zero(np.uint8, 8))
    agrees("QLinearConcat", _scale(0.2), _zero(np.uint8, 5), *triples, axis=1, steps=1)


def test_where() -> None:
    chosen = np.asarray([[True, False, True], [False, False, True]])
    x, y = _ints(np.uint8, 2, 3), _ints(np.uint8, 3, seed=1)
    z = (_scale(0.2), _zero(np.uint8, 5))
    agrees("QLinearWhere", chosen, x, _scale(0.1), _zero(np.uint8), y, _scale(0.4), _zero(np.uint8, 8), *z, steps=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nhwc_max_pool(dtype: type) -> None:
    agrees("NhwcMaxPool", _ints(dtype, 2, 7, 6, 3), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    agrees("NhwcMaxPool", _ints(dtype, 1, 8, 8, 2), kernel_shape=[2, 2], dilations=[2, 2], ceil_mode=1, strides=[2, 2])


def test_conv() -> None:
    x, w = _ints(np.uint8, 2, 7, 6, 4), _ints(np.int8, 6, 2, 3, 3, seed=1)
    inputs = (x, _scale(0.02), _zero(np.uint8), w, _scale(0.01), _zero(np.int8, 0), _scale(0.1), _zero(np.uint8, 120))
    agrees("QLinearConv", *inputs, constants=range(1, 8), channels_last=1, group=2, strides=[2, 1], pads=[1, 1, 1, 1], steps=1)


def test_quantize_and_dequantize() -> None:
    scale, zero = np.asarray([0.1, 0.2, 0.3], np.float32), np.asarray([1, 2, 3], np.uint16)
    agrees("QuantizeLinear", normal(2, 3, 4), scale, zero, axis=1)
    agrees("DequantizeLinear", _ints(np.uint16, 2, 3, 4), scale, zero, axis=1)
    agrees("DequantizeLinear", _ints(np.uint8, 2, 3), _scale(0.5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 5])
def test_matmuls_of_integers_to_floats(dtype: type, columns: int) -> None:
    shape = (columns,) if columns > 1 else ()
    b, scales = _ints(dtype, 4, 5, seed=1), np.full(shape, 0.03, np.float32) * np.arange(1, columns + 1, dtype=np.float32).reshape(shape)
    zeros = _ints(dtype, *shape, seed=2) if shape else _zero(dtype)
    bias = normal(5)
    agrees("MatMulIntegerToFloat", _ints(np.uint8, 2, 3, 4), b, _scale(0.1), scales, _zero(np.uint8, 9), zeros, bias, atol=1e-3)
    agrees("MatMulIntegerToFloat", _ints(np.uint8, 3, 4), b, _scale(0.1), scales, atol=1e-3)
    agrees("DynamicQuantizeMatMul", normal(2, 3, 4), b, scales, zeros, bias, atol=1e-3)
    agrees("DynamicQuantizeMatMul", normal(3, 4), b, scales, atol=1e-3)
