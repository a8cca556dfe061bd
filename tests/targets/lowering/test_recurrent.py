"""Recurrent layers against ONNX's node tests and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from kopt.frontend.load import load
from kopt.targets.xla import evaluate_graph
from support.node_cases import bound, cases_of, check

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize("name", cases_of("RNN", "GRU", "LSTM"))
def test_node_case(name: str) -> None:
    check(name)


def _arrays(op: str, directions: int, peepholes: bool) -> dict[str, np.ndarray]:
    steps, batch, size, hidden = 5, 3, 4, 2
    random, gates = np.random.default_rng(1), _GATES[op]
    shapes = {
        "X": (steps, batch, size),
        "W": (directions, gates * hidden, size),
        "R": (directions, gates * hidden, hidden),
        "B": (directions, 2 * gates * hidden),
        "lens": (),
        "h": (directions, batch, hidden),
    }
    if op == "LSTM":
        shapes["c"] = (directions, batch, hidden)
        if peepholes:
            shapes["P"] = (directions, 3 * hidden)
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["lens"] = np.asarray([5, 2, 3], np.int32)
    return arrays


@pytest.mark.parametrize(
    ("op", "direction", "attrs"),
    [
        ("RNN", "bidirectional", {"activations": ["LeakyRelu", "Affine"], "activation_alpha": [0.3, 0.5], "activation_beta": [0.2]}),
        ("RNN", "reverse", {"clip": 0.7}),
        ("GRU", "bidirectional", {"linear_before_reset": 1}),
        ("GRU", "reverse", {"linear_before_reset": 0, "activations": ["HardSigmoid", "Softsign"]}),
        ("LSTM", "bidirectional", {}),
        ("LSTM", "forward", {"clip": 0.5}),
        ("LSTM", "reverse", {"activations": ["Sigmoid", "Relu", "ScaledTanh"], "activation_alpha": [0.9], "activation_beta": [0.8]}),
    ],
)
def test_against_onnxruntime(op: str, direction: str, attrs: dict[str, Any]) -> None:
    arrays = _arrays(op, 2 if direction == "bidirectional" else 1, "clip" not in attrs)
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, list(arrays), outputs, hidden_size=2, direction=direction, **attrs)
    infos = [helper.make_tensor_value_info(name, 6 if name == "lens" else 1, array.shape) for name, array in arrays.items()]
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info(name, 1, None) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, arrays)
    ready, fed = bound(load(model), list(arrays.values()))
    for result, wanted in zip(evaluate_graph(ready, fed), expected, strict=True):
        assert result.dtype == wanted.dtype
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)
