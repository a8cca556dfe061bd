"""Quantization against ONNX's node tests and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from support.graphs import node_model
from support.node_cases import cases_of, check, node_cases, run_model

_SIX_BITS = [name for name in node_cases() if "float6" in name]  # element types kopt does not have
_OPS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


@pytest.mark.parametrize("name", cases_of(*_OPS, without=_SIX_BITS))
def test_node_case(name: str) -> None:
    check(name)


def _reference(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = {value.name for value in model.graph.input}
    return list(session.run(None, {name: array for name, array in inputs.items() if name in names}))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", [(3, 4, 5), (0, 4, 2)])
def test_quantize_by_channel_and_back(dtype: type, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    inputs = {
        "x": (random.normal(size=shape) * 30).astype(np.float32),
        "s": np.asarray([0.1, 0.5, 1, 2], np.float32),
        "z": random.integers(0, 100, 4).astype(dtype),
    }
    model = node_model("QuantizeLinear", inputs, opset=21, axis=1)
    (expected,) = _reference(model, inputs)
    (result,) = run_model(model, *inputs.values())
    np.testing.assert_array_equal(result, expected)
    inputs["x"] = result
    model = node_model("DequantizeLinear", inputs, opset=21, axis=1)
    np.testing.assert_array_equal(run_model(model, *inputs.values())[0], _reference(model, inputs)[0])


def test_qlinear_conv_with_bias_strides_and_groups() -> None:
    random = np.random.default_rng(0)
    inputs = {
        "x": random.integers(0, 255, (2, 4, 9, 7)).astype(np.uint8),
        "xs": np.asarray(0.02, np.float32),
        "xz": np.asarray(120, np.uint8),
        "w": random.integers(-127, 127, (6, 2, 3, 3)).astype(np.int8),
        "ws": random.uniform(0.01, 0.03, 6).astype(np.float32),
        "wz": np.zeros(6, np.int8),
        "ys": np.asarray(0.1, np.float32),
        "yz": np.asarray(7, np.uint8),
        "b": random.integers(-2000, 2000, 6).astype(np.int32),
    }
    model = node_model("QLinearConv", inputs, opset=21, pads=[1, 0, 2, 1], strides=[2, 1], group=2)
    (expected,) = _reference(model, inputs)
    (result,) = run_model(model, *inputs.values())
    assert result.dtype == np.uint8
    assert np.abs(result.astype(int) - expected.astype(int)).max() <= 1


def test_dynamic_quantization_of_zeros() -> None:
    x = np.zeros((2, 3), np.float32)
    model = node_model("DynamicQuantizeLinear", {"x": x}, opset=21, outputs=("y", "s", "z"))
    result, scale, zero = run_model(model, x)
    assert not result.any()
    assert scale == 1
    assert zero == 0
