"""Quantize the digits networks and raw-unit tabular networks in every precision, and compare with fp32 and with ONNX Runtime's own.

Needs scikit-learn and ONNX Runtime::

    python benchmarks/compression/quantize.py --work DIR                accuracy: errors, flips, decibels, file sizes
    python benchmarks/compression/quantize.py --work DIR --latency      latency at batch 1 of the files that the former left in DIR:
                                                                        one process per runtime, on a quiet machine

Writes ``results/quantize.json`` and ``results/quantize_latency.json``. Calibration: 200 training samples without labels.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static
from tabular import LOADERS, task

import kopt
from digits import digits

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
NETS = ("residual", "plain", "depthwise")
PRECISIONS = ("int8", "int8-dynamic", "int8-weights", "int4-weights", "bf16", "fp16")
CALIBRATION = 200


class _Reader(CalibrationDataReader):
    """One sample after another."""

    def __init__(self, name: str, rows: np.ndarray) -> None:
        self.feeds = iter([{name: row[None]} for row in rows])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def run(path: Path, rows: np.ndarray) -> np.ndarray:
    """Logits of ONNX Runtime."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: rows})[0])


def ours(path: Path, rows: np.ndarray, folder: Path) -> np.ndarray:
    """Logits of the file compiled by kopt, at the batch of all rows."""
    artifact = kopt.compile(str(path), batch=len(rows), output=folder / f"{path.stem}.all.kopt", measure=False)
    session = kopt.load(artifact.path)
    name = onnx.load(str(path)).graph.input[0].name
    return np.asarray(next(iter(session.run({name: rows}).values())))


def compared(exact: np.ndarray, found: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Errors, classes that differ from fp32, and decibels."""
    noise = np.square(exact - found, dtype=np.float64).sum()
    return {
        "errors": int((found.argmax(1) != labels).sum()),
        "flips": int((found.argmax(1) != exact.argmax(1)).sum()),
        "snr_db": round(float(10 * np.log10(np.square(exact, dtype=np.float64).sum() / max(noise, 1e-30))), 2),
    }


def onnxruntime_int8(model: Path, target: Path, name: str, rows: np.ndarray) -> None:
    """ONNX Runtime's own best: QDQ, MinMax, per channel."""
    quant_pre_process(str(model), str(target.with_suffix(".pre.onnx")), skip_symbolic_shape=True)
    settings = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(str(target.with_suffix(".pre.onnx")), str(target), _Reader(name, rows), **settings)


def accuracy(model: Path, train: np.ndarray, test: np.ndarray, labels: np.ndarray, folder: Path) -> dict[str, Any]:
    """One model in all precisions, run by ONNX Runtime and, in int8, by kopt."""
    exact = run(model, test)
    name = onnx.load(str(model)).graph.input[0].name
    result: dict[str, Any] = {"test_samples": len(test), "fp32": {"errors": int((exact.argmax(1) != labels).sum())}}
    for precision in PRECISIONS:
        path = folder / f"{model.stem}.{precision}.onnx"
        kopt.quantize(model, {name: train[:CALIBRATION]}, precision=precision, output=path)
        result[precision] = compared(exact, run(path, test), labels)
        result[precision]["size_ratio"] = round(path.stat().st_size / model.stat().st_size, 3)
        if precision == "int8":
            result["int8 by kopt"] = compared(exact, ours(path, test, folder), labels)
    kopt.compile(str(folder / f"{model.stem}.int8.onnx"), batch=1, output=folder / f"{model.stem}.int8.kopt", measure=False)
    peer = folder / f"{model.stem}.peer.onnx"
    onnxruntime_int8(model, peer, name, train[:CALIBRATION])
    result["onnxruntime int8"] = compared(exact, run(peer, test), labels)
    return result


def latency(model: Path, train: np.ndarray, folder: Path) -> dict[str, Any]:
    """Batch 1: kopt int8, and ONNX Runtime with fp32, with its own int8 and with kopt's int8 file."""
    from children import Child, alternate, ratios, summary

    name = onnx.load(str(model)).graph.input[0].name
    quantized, peer = folder / f"{model.stem}.int8.onnx", folder / f"{model.stem}.peer.onnx"
    np.savez(folder / "inputs.npz", **{name: train[:1]})
    sides = {
        "kopt int8": ("kopt", folder / f"{model.stem}.int8.kopt"),
        "onnxruntime fp32": ("onnxruntime", model),
        "onnxruntime int8": ("onnxruntime", peer),
        "onnxruntime, kopt's int8 file": ("onnxruntime", quantized),
    }
    with contextlib.ExitStack() as stack:
        children = []
        for label, (runtime, path) in sides.items():
            children.append(stack.enter_context(Child(runtime, Path(path), folder / "inputs.npz", threads=2)))
            children[-1].name = label
            children[-1].settle()
        samples, restless = alternate(children, rounds=5, seconds=0.15)
    found: dict[str, Any] = {"latency": {label: summary(rounds) for label, rounds in samples.items()}}
    found["ratio of kopt int8 to"] = {label: ratios(samples["kopt int8"], samples[label]) for label in sides if label != "kopt int8"}
    return found | ({"never_idle": restless} if restless else {})


def main(arguments: list[str]) -> None:
    """Measure what is asked for; each model's figures are written at once, beside those of others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for files")
    parser.add_argument("--latency", action="store_true", help="measure latency")
    parser.add_argument("--models", nargs="+", choices=[*NETS, *LOADERS], default=[*NETS, *LOADERS], help="which models")
    settings = parser.parse_args(arguments)
    settings.work.mkdir(exist_ok=True)
    target = HERE / "results" / ("quantize_latency.json" if settings.latency else "quantize.json")
    for name in settings.models:
        model, (train, test, labels) = _materialized(name, settings.work)
        if settings.latency and not (settings.work / f"{model.stem}.peer.onnx").exists():
            print(f"{name}: left out, its files are not there")
            continue
        found = latency(model, train, settings.work) if settings.latency else accuracy(model, train, test, labels, settings.work)
        results = json.loads(target.read_text()) if target.exists() else {}
        target.write_text(json.dumps({**results, model.stem: found}, indent=1) + "\n")
        print(name, json.dumps(found), flush=True)


def _materialized(name: str, folder: Path) -> tuple[Path, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The model's file, training inputs, test inputs and test labels."""
    if name in NETS:
        train, test, _, labels = digits()
        return HERE / "models" / f"digits_{name}.onnx", (train, test, labels)
    of = task(name)
    path = folder / f"{name}_raw_units.onnx"
    onnx.save(of.model, path)
    return path, (of.train, of.test, of.labels)


if __name__ == "__main__":
    main(sys.argv[1:])
