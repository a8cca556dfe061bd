"""Peak memory of ``kopt.compile``, beside the size of the model's weights.

Counted is the resident size of the process that compiles; what is measured for the report runs in other processes.

    python benchmarks/memory.py
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import onnx

import models
from machine import describe, options, table, write
from prepare import in_child


def weight_bytes(model: Path) -> int:
    """Size of all initializers."""
    return sum(len(tensor.raw_data) for tensor in onnx.load(model).graph.initializer)


def main() -> None:
    """Measure, print, write."""
    parser = options("Peak memory while compiling.")
    parser.add_argument("--models", nargs="+", default=models.names(), metavar="NAME", help="which models")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="precision of the artifact")
    settings = parser.parse_args()
    machine = describe()
    results = []
    with contextlib.ExitStack() as stack:
        work = settings.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        artifacts = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, model in models.materialize(work, settings.models).items():
            report = in_child("compile-and-measure", model, artifacts / f"{name}.kopt", 1, settings.precision, threads=settings.threads)
            results.append({"model": name, "weight_bytes": weight_bytes(model), **report})
    rows = [
        [
            one["model"],
            *(f"{one[key] / 1e6:.0f}" for key in ("weight_bytes", "peak_bytes")),
            f"{(one['peak_bytes'] - 600e6) / one['weight_bytes']:.2f}",
            f"{one['seconds']:.1f}",
        ]
        for one in results
    ]
    print(table(["model", "weights MB", "peak MB", "(peak - 600 MB) / weights", "compile s"], rows))
    print(f"\nwritten to {write('memory', settings, machine, results)}")


if __name__ == "__main__":
    main()
