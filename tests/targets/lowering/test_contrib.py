"""Operators of ONNX Runtime's optimizer, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from support.node_cases import run_model


def _agrees(op: str, *arrays: np.ndarray | None, outputs: int = 1, **attrs: Any) -> None:
    names = ["" if array is None else f"i{k}" for k, array in enumerate(arrays)]
    fed = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    made = [f"o{k}" if k in (0, outputs - 1) else "" for k in range(outputs)]
    node = helper.make_node(op, names, made, domain="com.microsoft", **attrs)
    infos = [helper.make_tensor_value_info(name, 1, array.shape) for name, array in fed.items()]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=name) for name in made if name])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, fed)
    for result, wanted in zip(run_model(model, *fed.values()), expected, strict=True):
        assert result.dtype == wanted.dtype
        np.testing.assert_allclose(result, wanted, rtol=1e-3, atol=1e-4 if op in ("FastGelu", "QuickGelu") else 1e-5)


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_gelus() -> None:
    _agrees("Gelu", _normal(3, 5))
    _agrees("FastGelu", _normal(3, 5), _normal(5))
    _agrees("FastGelu", _normal(3, 5))
    _agrees("BiasGelu", _normal(2, 3, 5), _normal(5))
    _agrees("QuickGelu", _normal(2, 3, 5), alpha=1.5)


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_fused_matmul(trans_a: int, trans_b: int) -> None:
    a, b = _normal(2, *((4, 3) if trans_a else (3, 4))), _normal(2, *((5, 4) if trans_b else (4, 5)))
    _agrees("FusedMatMul", a, b, transA=trans_a, transB=trans_b, alpha=0.5)


def test_fused_matmul_with_batch_inside() -> None:
    _agrees("FusedMatMul", _normal(3, 2, 4), _normal(2, 4, 5), transBatchA=1)


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "LeakyRelu"])
def test_fused_gemm(activation: str) -> None:
    attrs = {"activation_alpha": 0.3} if activation == "LeakyRelu" else {}
    _agrees("FusedGemm", _normal(3, 4), _normal(5, 4), _normal(5), transB=1, alpha=0.5, beta=2.0, activation=activation, **attrs)


def test_fused_conv() -> None:
    _agrees("FusedConv", _normal(2, 3, 7, 6), _normal(4, 3, 3, 3), _normal(4), activation="Relu", strides=[2, 1], pads=[1, 1, 1, 1])


def test_skip_normalizations() -> None:
    x, skip, scale, shift, bias = _normal(2, 3, 8), _normal(2, 3, 8) + 1, _normal(8), _normal(8), _normal(8)
    _agrees("SkipLayerNormalization", x, skip, scale, shift, bias, outputs=4, epsilon=1e-5)
    _agrees("SkipLayerNormalization", x, skip, scale, None, bias, outputs=1, epsilon=1e-5)
    _agrees("SkipSimplifiedLayerNormalization", x, skip, scale, bias, outputs=4, epsilon=1e-5)
