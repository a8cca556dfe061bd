"""From nothing to the first answer: a fresh process starts Python, imports, loads, hashes and runs once.

Files are in the page cache (one run before the timed ones reads them). Runs of the runtimes alternate.

    python benchmarks/startup.py
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import models
from children import Child
from machine import describe, options, table, write
from prepare import in_child
from runtimes import installed


def main() -> None:
    """Measure, print, write."""
    parser = options("Time to the first answer in a fresh process.")
    parser.add_argument("--models", nargs="+", default=["resnet50", "bert_base"], metavar="NAME", help="which models")
    parser.add_argument("--rounds", type=int, default=10, help="fresh processes per runtime")
    settings = parser.parse_args()
    machine = describe()
    results: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        work = settings.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, model in models.materialize(work, settings.models).items():
            artifact = model.with_suffix(".fp32.kopt")
            if not artifact.exists():
                in_child("compile", model, artifact, 1, "fp32", threads=settings.threads)
            inputs = model.with_suffix(".inputs.npz")
            np.savez(inputs, **models.inputs_of(onnx.load(model, load_external_data=False)))
            paths = {"kopt": artifact, **{peer: model for peer in ("onnxruntime", "openvino") if installed(peer)}}
            results += measure(name, paths, inputs, settings.rounds, settings.threads)
    rows = [
        [
            one["model"],
            one["runtime"],
            *(f"{np.median(one[part]):.2f}" for part in PARTS),
            f"{min(one['total_s']):.2f} to {max(one['total_s']):.2f}",
        ]
        for one in results
    ]
    print(table(["model", "runtime", "first answer s (p50)", "of it: load s", "first call s", "range of first answer s"], rows))
    print(f"\nwritten to {write('startup', settings, machine, results)}")


PARTS = ("total_s", "load_s", "first_call_s")


def measure(name: str, paths: dict[str, Path], inputs: Path, rounds: int, threads: int) -> list[dict[str, Any]]:
    """One entry per runtime with the seconds of every run."""
    results: dict[str, dict[str, Any]] = {runtime: {"model": name, "runtime": runtime, **{part: [] for part in PARTS}} for runtime in paths}
    for index in range(rounds + 1):
        for runtime, path in paths.items():
            with Child(runtime, path, inputs, threads=threads) as child:
                times = (child.first_answer_s, child.started["load_s"], child.started["first_call_s"])
            if index:
                for part, seconds in zip(PARTS, times, strict=True):
                    results[runtime][part].append(seconds)
    return list(results.values())


if __name__ == "__main__":
    main()
