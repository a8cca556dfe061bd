"""Latency of every benchmark model against ONNX Runtime and OpenVINO.

Each runtime has a process of its own, bound to the same cores; blocks of calls alternate between them, and a waiting
process is idle (see ``children.alternate``). Outputs are compared with ONNX Runtime's before any time counts. A batch
other than one is made by kopt's ``rebatch``, and all runtimes get the same re-batched ONNX file.

    python benchmarks/run.py                                 everything, about an hour
    python benchmarks/run.py --budget 3m                     the same with programs searched for three minutes each
    python benchmarks/run.py --models resnet18 --batch 1 --rounds 1 --seconds 0.1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import models
from children import Child, alternate, ratios, summary
from machine import describe, options, table, write
from prepare import in_child
from runtimes import installed

PEERS = ("onnxruntime", "openvino")


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = options("Latency of the benchmark models against ONNX Runtime and OpenVINO.")
    parser.add_argument("--models", nargs="+", default=models.names(), metavar="NAME", help="which models")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="which batch sizes")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"], help="precisions of kopt and OpenVINO")
    parser.add_argument("--budget", default="", help="search every program so long first, such as 100s (default: no search)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of two blocks per runtime")
    parser.add_argument("--seconds", type=float, default=1.0, help="least length of a block")
    parser.add_argument("--calls", type=int, default=5, help="least calls of a block")
    settings = parser.parse_args()
    machine = describe()
    results = []
    with contextlib.ExitStack() as stack:
        work = settings.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, path in models.materialize(work, settings.models).items():
            for batch in settings.batch:
                for precision in settings.precision:
                    results.append(measure(name, path, batch, precision, settings))
                    print(line_of(results[-1]), flush=True)
    print("\n" + table(HEADER, [cells(result) for result in results]))
    print(f"\nwritten to {write('latency-tuned' if settings.budget else 'latency', settings, machine, results)}")


def measure(name: str, model: Path, batch: int, precision: str, settings: argparse.Namespace) -> dict[str, Any]:
    """One row: all runtimes on one model, batch size and precision; a failure is kept with its reason."""
    result: dict[str, Any] = {"model": name, "batch": batch, "precision": precision}
    try:
        if batch != 1:
            batched = model.with_suffix(f".batch{batch}.onnx")
            if not batched.exists():
                result["rebatch"] = in_child("rebatch", model, batched, batch, threads=settings.threads)
            model = batched
        artifact = model.with_suffix(f".{precision}.tuned.kopt" if settings.budget else f".{precision}.kopt")
        if not artifact.exists():
            result["compile"] = in_child("compile", model, artifact, batch, precision, settings.budget, threads=settings.threads)
        if settings.budget:
            result["search"] = json.loads((artifact / "report.json").read_text())["search"]
        inputs = model.with_suffix(".inputs.npz")
        np.savez(inputs, **models.inputs_of(onnx.load(model, load_external_data=False), batch))
        race(result, {"kopt": artifact, **{peer: model for peer in PEERS if installed(peer)}}, inputs, settings)
    except RuntimeError as error:
        result["failure"] = str(error)
    return result


def race(result: dict[str, Any], paths: dict[str, Path], inputs: Path, settings: argparse.Namespace) -> None:
    """Fill ``result`` with errors and times of the runtimes in ``paths``."""
    with contextlib.ExitStack() as stack:
        children = []
        for runtime, path in paths.items():
            # ONNX Runtime's CPU provider has no bf16 mode: it stays the fp32 yardstick.
            precision = "fp32" if runtime == "onnxruntime" else result["precision"]
            children.append(stack.enter_context(Child(runtime, path, inputs, threads=settings.threads, precision=precision)))
            children[-1].settle()
        outputs = {child.name: child.outputs() for child in children}
        if "onnxruntime" in outputs:
            truth = outputs["onnxruntime"]
            result["relative_error"] = {runtime: relative_error(found, truth) for runtime, found in outputs.items() if found is not truth}
        samples, restless = alternate(children, rounds=settings.rounds, seconds=settings.seconds, num_calls=settings.calls)
    result["latency"] = {runtime: summary(rounds) for runtime, rounds in samples.items()}
    result["ratio"] = {peer: ratios(samples["kopt"], samples[peer]) for peer in paths if peer != "kopt"}
    if restless:
        result["never_idle"] = restless  # their waiting disturbed the others: read the times with care


def relative_error(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> float:
    """Largest absolute difference of any output, over the largest magnitude of that output; infinite where NaN is involved."""
    worst = 0.0
    for (name, right), left in zip(truth.items(), found.values(), strict=True):
        if left.shape != right.shape:
            raise RuntimeError(f"output '{name}' has shape {left.shape}, not {right.shape}")
        difference = np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0.0)
        if np.isnan(difference):
            return float("inf")
        worst = max(worst, float(difference / max(np.abs(right).max(initial=0.0), 1e-30)))
    return worst


HEADER = [
    "model",
    "batch",
    "precision",
    "kopt ms",
    "ONNX Runtime ms",
    "OpenVINO ms",
    "kopt / ONNX Runtime",
    "kopt / OpenVINO",
    "relative error",
]


def cells(result: dict[str, Any]) -> list[str]:
    """One row of the table."""
    first = [result["model"], str(result["batch"]), result["precision"]]
    if "failure" in result:
        return [*first, f"failed: {result['failure']}", *[""] * (len(HEADER) - 4)]
    latency, ratio = result["latency"], result["ratio"]
    times = [f"{latency[one]['p50_ms']:.2f}" if one in latency else "not installed" for one in ("kopt", *PEERS)]
    quotients = [f"{r['median']:.2f} [{r['min']:.2f}, {r['max']:.2f}]" if (r := ratio.get(peer)) else "" for peer in PEERS]
    error = result.get("relative_error", {}).get("kopt")
    return [*first, *times, *quotients, "not compared" if error is None else f"{error:.1e}"]


def line_of(result: dict[str, Any]) -> str:
    """What is printed as soon as a row is there."""
    return "  ".join(f"{head}: {cell}" for head, cell in zip(HEADER, cells(result), strict=True) if cell)


if __name__ == "__main__":
    main()
