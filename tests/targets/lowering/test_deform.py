"""Deformable convolution and attention with bodies, against ONNX's node tests and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from support.graphs import node_model
from support.node_cases import cases_of, check, run_model


@pytest.mark.parametrize("name", cases_of("DeformConv", "FlexAttention"))
def test_node_case(name: str) -> None:
    check(name)


def test_offset_groups_strides_and_dilations() -> None:
    random = np.random.default_rng(0)
    inputs = {
        "x": random.normal(size=(2, 4, 9, 8)).astype(np.float32),
        "w": random.normal(size=(6, 2, 3, 2)).astype(np.float32),
        "o": random.normal(size=(2, 2 * 6 * 2, 4, 8)).astype(np.float32),
        "b": random.normal(size=6).astype(np.float32),
        "m": random.uniform(size=(2, 2 * 6, 4, 8)).astype(np.float32),
    }
    attrs = {"group": 2, "offset_group": 2, "pads": [1, 0, 1, 1], "strides": [2, 1], "dilations": [2, 1]}
    model = node_model("DeformConv", inputs, opset=19, **attrs)
    (result,) = run_model(model, *inputs.values())
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)
