"""The parent's side of ``runtimes.py``: children that run one at a time, and blocks in alternating order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).parent
IDLE_WINDOW_S = 0.05
IDLE_SHARE = 0.02  # of one core, at which a waiting process counts as idle
IDLE_PATIENCE_S = 5.0


def environment(threads: int) -> dict[str, str]:
    """The environment of a child: ``NPROC`` is how XLA's CPU client is told its number of threads."""
    return {**os.environ, "NPROC": str(threads), "JAX_PLATFORMS": "cpu"}


class Child:
    """One runtime in a process of its own; it does nothing unless asked.

    Attributes:
        name: the runtime.
        started: the child's report of its start-up (see ``runtimes.main``).
        first_answer_s: wall time from before the process was made until its first outputs.
    """

    def __init__(self, runtime: str, model: Path, inputs: Path, *, threads: int = 2, precision: str = "fp32") -> None:
        self.name = runtime
        command = [sys.executable, str(HERE / "runtimes.py"), runtime, str(model), str(inputs), str(threads), precision]
        before_ns = time.time_ns()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads),
        )
        self.started = self._answer()
        self.first_answer_s = (self.started["answered_ns"] - before_ns) / 1e9

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def block(self, seconds: float, num_calls: int = 5, inner: int = 1) -> list[int]:
        """Samples in nanoseconds per call."""
        return self._ask({"do": "block", "seconds": seconds, "calls": num_calls, "inner": inner})  # type: ignore[no-any-return]

    def outputs(self) -> dict[str, np.ndarray]:
        """The outputs of one call."""
        with tempfile.TemporaryDirectory() as directory:
            path = str(Path(directory) / "outputs.npz")
            self._ask({"do": "outputs", "path": path})
            with np.load(path) as arrays:
                return {name: arrays[name] for name in arrays.files}

    def settle(self) -> bool:
        """Wait until the child's threads stopped spinning; False when they still run after ``IDLE_PATIENCE_S``."""
        process = psutil.Process(self._process.pid)
        deadline = time.monotonic() + IDLE_PATIENCE_S
        while time.monotonic() < deadline:
            used = sum(process.cpu_times()[:2])
            time.sleep(IDLE_WINDOW_S)
            if sum(process.cpu_times()[:2]) - used <= IDLE_SHARE * IDLE_WINDOW_S:
                return True
        return False

    def close(self) -> None:
        """End the child."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self.close()
            raise RuntimeError(f"the process of {self.name} ended with code {self._process.returncode}; its messages stand above")
        return json.loads(line)


def alternate(
    children: Sequence[Child], *, rounds: int, seconds: float, num_calls: int = 5, inner: int = 1
) -> tuple[dict[str, list[list[int]]], list[str]]:
    """Samples per runtime and round, two blocks a round in the order A B C C B A; and which processes failed to fall idle.

    While one process is timed the others wait on their pipes; a block begins only after the process that ran before it
    stopped using the processor.
    """
    samples: dict[str, list[list[int]]] = {child.name: [] for child in children}
    restless: set[str] = set()
    for child in children:
        child.block(0.0, 1, inner)  # first calls after loading belong to nobody's numbers
        if not child.settle():
            restless.add(child.name)
    for _ in range(rounds):
        for child in children:
            samples[child.name].append([])
        for child in (*children, *reversed(children)):
            samples[child.name][-1] += child.block(seconds, num_calls, inner)
            if not child.settle():
                restless.add(child.name)
    return samples, sorted(restless)


def ratios(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> dict[str, float]:
    """Median over rounds of the ratio of the rounds' medians, with its smallest and largest value."""
    each = [float(np.median(a) / np.median(b)) for a, b in zip(ours, theirs, strict=True)]
    return {"median": float(np.median(each)), "min": min(each), "max": max(each)}


def summary(rounds: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Quantiles over all samples, and the median of each round, in milliseconds."""
    flat = np.concatenate([np.asarray(one, np.float64) for one in rounds]) / 1e6
    return {
        "p50_ms": float(np.median(flat)),
        "p90_ms": float(np.quantile(flat, 0.9)),
        "num_samples": len(flat),
        "round_p50_ms": [float(np.median(one) / 1e6) for one in rounds],
    }
