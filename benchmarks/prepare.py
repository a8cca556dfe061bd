"""Compiling and re-batching in a process of its own, with its time and peak memory.

    python benchmarks/prepare.py compile MODEL OUT.kopt THREADS BATCH PRECISION [BUDGET]
    python benchmarks/prepare.py compile-and-measure MODEL OUT.kopt THREADS BATCH PRECISION
    python benchmarks/prepare.py rebatch MODEL OUT.onnx THREADS BATCH

prints one JSON line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from children import environment
from runtimes import bind_cores


def compile_artifact(model: Path, output: Path, batch: int, precision: str, budget: str = "", *, measure: bool) -> None:
    """Compile for this machine's processor; with ``measure`` all of what `kopt compile` does, its report included.

    With a budget, such as "100s", the program is searched for; trials go to a database beside the artifact, so nothing is known before.
    """
    import kopt
    from kopt.autotune.budget import parse_duration
    from kopt.tune import Tuning

    tuning = Tuning(parse_duration(budget), database=output.with_suffix(".db"), precisions=(precision,)) if budget else None
    kopt.compile(str(model), target="cpu", output=str(output), batch=batch, precision=precision, measure=measure, tuning=tuning)


def rebatch(model: Path, output: Path, batch: int) -> None:
    """The model with its fixed batch of one replaced by ``batch``, as an ONNX file that every runtime gets alike."""
    import onnx

    from kopt.frontend.export import to_model
    from kopt.frontend.load import load
    from kopt.passes.pipeline import Pipeline
    from kopt.passes.rebatch import Rebatch

    graph, _ = Pipeline((Rebatch(batch=batch),)).run(load(model))
    onnx.save(to_model(graph, opset=20), output)


def in_child(what: str, model: Path, output: Path, *rest: object, threads: int) -> dict[str, Any]:
    """Run this file in a fresh process bound to as many cores as threads; returns its report.

    Raises:
        RuntimeError: it failed; the message is the last line it wrote.
    """
    done = subprocess.run(
        [sys.executable, __file__, what, str(model), str(output), str(threads), *map(str, rest)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(threads),
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def peak_bytes() -> int:
    """Largest resident size of this process since it was started (not what its parent held before)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) * 1024 if found else 0


def main() -> None:
    """Do what the arguments say and report."""
    from kopt.errors import KoptError

    what, model, output, threads, batch, *rest = sys.argv[1:]
    bind_cores(int(threads))
    start = time.perf_counter()
    try:
        if what.startswith("compile"):
            compile_artifact(Path(model), Path(output), int(batch), *rest, measure=what == "compile-and-measure")
        else:
            rebatch(Path(model), Path(output), int(batch))
    except KoptError as error:
        sys.exit(error.what)
    report = {
        "seconds": time.perf_counter() - start,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
