"""Compress a digits network, recover it without labels, and compare both with the original.

Three damages: half of the channels cut, 70 % of the weights zero, and weights of 2 bits. Needs scikit-learn and ONNX Runtime::

    python benchmarks/compression/recover_digits.py residual

Writes ``results/recover_digits_NAME.json`` beside this file. Test images are used for nothing but the accuracies printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from digits import digits
from kopt.frontend.export import to_model
from kopt.frontend.load import load
from kopt.ir.graph import Graph
from kopt.pruning import prune
from kopt.pruning.latency import Timed, measured_ratio
from kopt.recovery.api import recover
from kopt.recovery.observe import prepared

HERE = Path(__file__).parent
BUDGET_S = 90.0
"""Of recovery, on one core."""


def half_the_channels(model: Path, calib: dict[str, np.ndarray]) -> Graph:
    """Structured pruning, rebuilt from the calibration images."""
    return prune(str(model), ratio=0.5, calib=calib).graph


def most_weights_zero(model: Path, calib: dict[str, np.ndarray]) -> Graph:  # noqa: ARG001
    """70 % of the weights, the smallest."""
    return prune(str(model), ratio=0.7, method="unstructured").graph


def two_bits(model: Path, calib: dict[str, np.ndarray]) -> Graph:  # noqa: ARG001
    """Every weight as one of -2, -1, 0, 1 times a scale of its output channel."""
    proto = to_model(prepared(load(str(model))), opset=21)
    nodes = []
    for tensor in list(proto.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.ndim < 2:
            continue
        axis = 0 if array.ndim == 4 else 1
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        scale = _best_scale(rows)
        steps = np.moveaxis(np.clip(np.round(rows / scale[:, None]), -2, 1).reshape(np.moveaxis(array, axis, 0).shape), 0, axis)
        proto.graph.initializer.remove(tensor)
        stored = helper.make_tensor(f"{tensor.name}.q", TensorProto.INT4, array.shape, steps.astype(np.int8).ravel().tolist())
        proto.graph.initializer.extend([stored, numpy_helper.from_array(scale, f"{tensor.name}.s")])
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor.name}.q", f"{tensor.name}.s"], [tensor.name], axis=axis))
    rest = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(proto)
    return load(proto)


def _best_scale(rows: np.ndarray) -> np.ndarray:
    """Per row, the scale with the least squared error."""
    largest = np.abs(rows).max(1)
    candidates = [largest * share for share in np.linspace(0.2, 1.0, 33)]
    errors = [np.square(np.clip(np.round(rows / s[:, None]), -2, 1) * s[:, None] - rows).sum(1) for s in candidates]
    chosen: np.ndarray = np.array(candidates)[np.argmin(errors, axis=0), np.arange(len(rows))].astype(np.float32)
    return chosen


DAMAGES: dict[str, Callable[[Path, dict[str, np.ndarray]], Graph]] = {
    "half of the channels": half_the_channels,
    "70 % of the weights zero": most_weights_zero,
    "weights of 2 bits": two_bits,
}


def accuracy(model: bytes | str, image: np.ndarray, label: np.ndarray) -> float:
    """Percent of the images, by ONNX Runtime."""
    logits = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
    return float(100 * (logits.argmax(-1) == label).mean())


def measure(name: str, damage: str, report: dict[str, Any]) -> None:
    """One damage: accuracies before and after, seconds, and latency where shapes shrank."""
    train, test, _, label = digits()
    model, calib = HERE / "models" / f"digits_{name}.onnx", {"image": train}
    begun = time.monotonic()
    student = DAMAGES[damage](model, calib)
    damaged = accuracy(to_model(student).SerializeToString(), test, label)
    recovered = recover(student, str(model), calib, budget_s=BUDGET_S, progress=print)
    seconds = time.monotonic() - begun
    back = accuracy(to_model(recovered.graph).SerializeToString(), test, label)
    original = accuracy(str(model), test, label)
    entry = {"original": original, "damaged": damaged, "recovered": back, **recovered.report, "seconds_in_all": round(seconds, 1)}
    print(f"{name}, {damage}: {original:.2f} %, damaged {damaged:.2f} %, recovered {back:.2f} % in {seconds:.0f} s", flush=True)
    if damage == "half of the channels":
        with tempfile.TemporaryDirectory() as folder:
            sides = (prepared(load(str(model))), recovered.graph)
            with Timed(sides[0], Path(folder), "a") as first, Timed(sides[1], Path(folder), "b") as second:
                ratio, held = measured_ratio(first, second)
        entry["faster"] = {"ratio": ratio.value, "lower": ratio.lower, "upper": ratio.upper, "pruned_us": held.p50_us}
        print(f"{ratio.value:.2f} ({ratio.lower:.2f} to {ratio.upper:.2f}) times as fast, batch 1", flush=True)
    report[damage] = entry


def main() -> None:
    """All damages, or those whose words are given after the network's name."""
    name, words = sys.argv[1] if len(sys.argv) > 1 else "residual", sys.argv[2:]
    path = HERE / "results" / f"recover_digits_{name}.json"
    path.parent.mkdir(exist_ok=True)
    report = json.loads(path.read_text()) if path.is_file() else {}
    sys.path.append(str(HERE.parent))
    from machine import describe

    report["machine"] = describe()
    for damage in DAMAGES:
        if not words or any(word in damage for word in words):
            measure(name, damage, report)
            path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
