"""Whether budgets of accuracy hold on data that the search never saw: `--precision auto --max-drop`, over seeds.

Needs scikit-learn and ONNX Runtime::

    python benchmarks/compression/max_drop.py --work DIR [--seeds 20] [--seconds 50]

Each seed takes a model, a budget, and one way to judge (right answers, outputs alone, or a metric of the user), splits the samples
that the model was not trained on into those to calibrate with and those held out, and quantizes; the held-out drop is ONNX
Runtime's. "Hard" models compute what the originals do, with channels so unequal that 8 bits lose much of some. Results go to
``results/max_drop.json`` seed by seed; seeds that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from tabular import task

import kopt
from digits import digits

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "max_drop.json"
MODELS = ("residual", "wine", "plain hard", "breast_cancer", "depthwise", "plain", "depthwise hard")
BUDGETS = (0.01, 0.005, 0.02)
WAYS = ("labels", "outputs", "labels", "metric")
_CALIBRATION = {"wine": 36, "breast_cancer": 114}


def likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean probability of the right class: a metric of the user."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return float((odds[np.arange(len(labels)), labels] / odds.sum(1)).mean())


def unequal(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Channels of normalizations behind which there is a Relu and one convolution, scaled by powers of two, and taken back there."""
    rng = np.random.default_rng(seed)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def scale(name: str, factor: np.ndarray) -> None:
        array = numpy_helper.to_array(held[name])
        held[name].CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), name))

    for node in model.graph.node:
        after = readers.get(node.output[0], [])
        if node.op_type != "BatchNormalization" or [one.op_type for one in after] != ["Relu"]:
            continue
        last = readers.get(after[0].output[0], [])
        if [one.op_type for one in last] != ["Conv"]:
            continue
        factor = 2.0 ** rng.integers(0, 7, held[node.input[1]].dims[0])
        scale(node.input[1], factor)
        scale(node.input[2], factor)
        depthwise = any(item.name == "group" and item.i > 1 for item in last[0].attribute)
        scale(last[0].input[1], 1 / factor.reshape((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1)))
    return model


def samples(name: str, folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """The model's file, and inputs and right answers it was not trained on."""
    path = folder / f"{name.replace(' ', '_')}.onnx"
    if name in _CALIBRATION:
        of = task(name)
        onnx.save(of.model, path)
        return path, of.test, np.asarray(of.labels, np.int64)
    word, *hard = name.split()
    proto = onnx.load(HERE / "models" / f"digits_{word}.onnx")
    onnx.save(unequal(proto, 0) if hard else proto, path)
    _, test, _, labels = digits()
    return path, test, labels


def run(model: bytes | str, rows: np.ndarray) -> np.ndarray:
    """Logits of ONNX Runtime."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: rows})[0])


def drop(way: str, exact: np.ndarray, found: np.ndarray, labels: np.ndarray) -> float:
    """What the held-out samples lose, in the terms of the budget."""
    if way == "metric":
        return likelihood(exact, labels) - likelihood(found, labels)
    if way == "labels":
        return float((exact.argmax(1) == labels).mean() - (found.argmax(1) == labels).mean())
    return float((exact.argmax(1) != found.argmax(1)).mean())


def one(seed: int, folder: Path) -> dict[str, Any]:
    """One seed's split and budget."""
    name, budget, way = MODELS[seed % len(MODELS)], BUDGETS[seed % len(BUDGETS)], WAYS[seed % len(WAYS)]
    path, rows, labels = samples(name, folder)
    order = np.random.default_rng(seed).permutation(len(rows))
    fit, held_out = np.split(order, [_CALIBRATION.get(name, 300)])
    feeds = {onnx.load(path).graph.input[0].name: rows[fit]}
    if way != "outputs":
        feeds["labels"] = labels[fit]
    begun, output = time.perf_counter(), folder / "quantized.onnx"
    metric = likelihood if way == "metric" else None
    done = kopt.quantize(path, feeds, precision="auto", max_drop=budget, metric=metric, output=output, timed=False)
    seconds = time.perf_counter() - begun
    auto = done.report["auto"]
    lost = drop(way, run(str(path), rows[held_out]), run(str(output), rows[held_out]), labels[held_out])
    everything = kopt.quantize(path, feeds, precision="int8", output=output)
    all_lost = drop(way, run(str(path), rows[held_out]), run(str(output), rows[held_out]), labels[held_out])
    return {
        "model": name,
        "judged by": way,
        "max_drop": budget,
        "samples": [len(fit), len(held_out)],
        "layers": [len(auto["sensitivity"]) - len(auto["kept"]), len(everything.report["layers"])],
        "calibration": auto["drop"],
        "interval": auto["interval"],
        "held_out": lost,
        "held_out of int8 everywhere": all_lost,
        "kept": bool(lost <= budget + auto["interval"]),
        "within": bool(lost <= budget),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """The seeds that are missing, as many as the time allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for files")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no seed is begun after that")
    settings = parser.parse_args()
    settings.work.mkdir(exist_ok=True, parents=True)
    begun = time.perf_counter()
    for seed in range(settings.seeds):
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        if str(seed) in results or time.perf_counter() - begun > settings.seconds:
            continue
        results[str(seed)] = one(seed, settings.work)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(seed, json.dumps(results[str(seed)]), flush=True)


if __name__ == "__main__":
    main()
