"""Multilayer perceptrons on scikit-learn's wine and breast_cancer that take raw units: the scaler is folded into the first layer.

Trained in seconds, so no model files are kept; the split and the seed are fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

LOADERS = {"wine": load_wine, "breast_cancer": load_breast_cancer}


@dataclass(frozen=True)
class Task:
    """A trained model in raw units, with training inputs, test inputs and test labels."""

    model: onnx.ModelProto
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray


def task(name: str) -> Task:
    """Train on 60 % of the samples, ReLU layers of 128 and 128."""
    found = LOADERS[name]()
    split = train_test_split(found.data, found.target, test_size=0.4, random_state=0, stratify=found.target)
    train, test, train_labels, labels = split
    scaler = StandardScaler().fit(train)
    net = MLPClassifier((128, 128), max_iter=400, random_state=0, alpha=1e-2).fit(scaler.transform(train), train_labels)
    weights, biases = [w.copy() for w in net.coefs_], [b.copy() for b in net.intercepts_]
    biases[0] = biases[0] - (scaler.mean_ / scaler.scale_) @ weights[0]
    weights[0] = weights[0] / scaler.scale_[:, None]
    if weights[-1].shape[1] == 1:  # two classes: one logit, written as two
        weights[-1], biases[-1] = np.concatenate([-weights[-1], weights[-1]], 1) / 2, np.concatenate([-biases[-1], biases[-1]]) / 2
    return Task(_model(name, weights, biases), train.astype(np.float32), test.astype(np.float32), labels)


def _model(name: str, weights: list[np.ndarray], biases: list[np.ndarray]) -> onnx.ModelProto:
    nodes, held, value = [], [], "x"
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        held += [numpy_helper.from_array(w.astype(np.float32), f"w{k}"), numpy_helper.from_array(b.astype(np.float32), f"b{k}")]
        last = k == len(weights) - 1
        out = "logits" if last else f"h{k}"
        nodes.append(helper.make_node("Gemm", [value, f"w{k}", f"b{k}"], [out], name=f"dense{k}"))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"r{k}"], name=f"relu{k}"))
        value = f"r{k}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights[0].shape[0]])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weights[-1].shape[1]])
    graph = helper.make_graph(nodes, name, [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
