"""One session under many threads: every answer must be, bit for bit, what one thread gets.

python benchmarks/threads.py
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import onnx

import models
from machine import describe, options, table, write
from prepare import in_child


def main() -> None:
    """Check, print, write; exit code 1 when any answer differs."""
    parser = options("Bit-identity of answers under many threads.")
    parser.add_argument("--models", nargs="+", default=["mobilenetv2"], metavar="NAME", help="which models")
    parser.add_argument("--callers", type=int, default=64, help="threads that call one session")
    parser.add_argument("--calls", type=int, default=100, help="calls of each thread")
    settings = parser.parse_args()
    machine = describe()
    results = []
    with contextlib.ExitStack() as stack:
        work = settings.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, model in models.materialize(work, settings.models).items():
            artifact = model.with_suffix(".fp32.kopt")
            if not artifact.exists():
                in_child("compile", model, artifact, 1, "fp32", threads=settings.threads)
            results.append({"model": name, **check(model, artifact, settings.callers, settings.calls)})
    rows = [[one["model"], str(one["num_calls"]), str(one["num_different"]), f"{one['seconds']:.1f}"] for one in results]
    print(table(["model", "calls", "answers that differ", "s"], rows))
    print(f"\nwritten to {write('threads', settings, machine, results)}")
    if any(one["num_different"] for one in results):
        raise SystemExit(1)


def check(model: Path, artifact: Path, num_callers: int, num_calls: int) -> dict[str, float]:
    """Number of calls, of answers that differ from the single thread's, and seconds; every thread has inputs of its own."""
    import kopt

    session = kopt.load(str(artifact))
    proto = onnx.load(model, load_external_data=False)
    inputs = [models.inputs_of(proto, seed=seed) for seed in range(num_callers)]
    alone = [as_bytes(session.run(one)) for one in inputs]
    together = Barrier(num_callers)

    def caller(index: int) -> int:
        together.wait()
        return sum(as_bytes(session.run(inputs[index])) != alone[index] for _ in range(num_calls))

    start = time.perf_counter()
    with ThreadPoolExecutor(num_callers) as pool:
        num_different = sum(pool.map(caller, range(num_callers)))
    return {"num_calls": num_callers * num_calls, "num_different": num_different, "seconds": time.perf_counter() - start}


def as_bytes(outputs: dict[str, np.ndarray]) -> bytes:
    """All outputs, bit for bit."""
    return b"".join(np.asarray(array).tobytes() for array in outputs.values())


if __name__ == "__main__":
    main()
