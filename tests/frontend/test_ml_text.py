"""Operators of ai.onnx.ml with text: only look-ups run on the host. Against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from kopt import onnx_backend
from support.contrib import normal

STRING = onnx.TensorProto.STRING


def _model(op: str, x: np.ndarray, outputs: list[str], **attrs: Any) -> onnx.ModelProto:
    kind = STRING if x.dtype == object else helper.np_dtype_to_tensor_dtype(x.dtype)
    node = helper.make_node(op, ["x"], outputs, domain="ai.onnx.ml", **attrs)
    made = [onnx.ValueInfoProto(name=name) for name in outputs if name]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", kind, x.shape)], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8)


def _agrees(op: str, x: np.ndarray, outputs: list[str], **attrs: Any) -> list[str]:
    """Compare, and tell the operators that ran on the host."""
    model = _model(op, x, outputs, **attrs)
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    prepared = onnx_backend.prepare(model)
    for result, wanted in zip(prepared.run([x]), expected, strict=True):
        assert np.asarray(result).shape == np.asarray(wanted).shape
        if np.asarray(wanted).dtype.kind == "f":
            np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)
        else:
            assert np.asarray(result).tolist() == np.asarray(wanted).tolist()
    return [node.op for node in prepared.host_nodes]


LABELS = ["blue", "green", "red"]
LINEAR = {"coefficients": [float(item) for item in normal(12, seed=1)], "intercepts": [0.1, -0.2, 0.3]}


def test_labels_of_a_classifier() -> None:
    on_host = _agrees("LinearClassifier", normal(7, 4), ["y", "z"], classlabels_strings=LABELS, post_transform="SOFTMAX", **LINEAR)
    assert on_host == ["ai.onnx.ml::LabelEncoder"]


def test_scores_alone_need_no_host() -> None:
    model = _model("LinearClassifier", normal(7, 4), ["", "z"], classlabels_strings=LABELS, **LINEAR)
    prepared = onnx_backend.prepare(model)
    assert np.asarray(prepared.run([normal(7, 4)])[0]).shape == (7, 3)
    assert not prepared.host_nodes


def test_labels_of_trees() -> None:
    attrs = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [1, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.1, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "class_treeids": [0, 0, 0],
        "class_nodeids": [1, 2, 2],
        "class_ids": [0, 1, 2],
        "class_weights": [1.0, 0.3, 0.7],
    }
    _agrees("TreeEnsembleClassifier", normal(7, 4), ["y", "z"], classlabels_strings=LABELS, **attrs)


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_categories(shape: tuple[int, ...]) -> None:
    words = np.asarray(["red", "blue", "white", "green"], object).reshape(shape)
    _agrees("OneHotEncoder", words, ["y"], cats_strings=LABELS, zeros=1)
    _agrees("CategoryMapper", words, ["y"], cats_strings=LABELS, cats_int64s=[3, 5, 7], default_int64=-4)
    _agrees(
        "CategoryMapper", np.asarray([3, 7, 9, 5]).reshape(shape), ["y"], cats_strings=LABELS, cats_int64s=[3, 5, 7], default_string="none"
    )
