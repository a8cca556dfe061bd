"""Entry functions of trials: good candidates, and all that can go wrong with one."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from kopt.trial import Candidate

RAISED = {
    "no memory": MemoryError("cannot have it"),
    "bad_alloc": RuntimeError("std::bad_alloc"),
    "raise": ValueError("this schedule is not valid\nmore lines"),
}


def _sabotage(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "abort":
        os.abort()
    elif how == "exit":
        sys.stderr.write("last words\n")
        sys.stderr.flush()
        os._exit(7)
    elif how == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        time.sleep(600)
    elif how == "lock":  # never gives the interpreter back
        ctypes.PyDLL(None).sleep(600)
    elif how == "eat":
        held = []
        while True:
            held.append(np.ones(1 << 20))
            time.sleep(0.001)
    elif how in RAISED:
        raise RAISED[how]
    elif how == "shout":
        for _ in range(20_000):
            os.write(1, b"x" * 4096)
            os.write(2, b"y" * 4096)
    elif how == "close":
        os.closerange(1, 64)
        time.sleep(600)


def candidate(payload: Mapping[str, Any]) -> Candidate:
    """Doubles numbers; ``how`` breaks it, ``sleep_s`` is what a call takes."""
    how = payload.get("how", "")
    if how.startswith("family "):
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=how == "family away")
        if payload.get("tell"):
            with open(payload["tell"], "w") as file:  # noqa: PTH123
                file.write(f"{os.getpid()} {grandchild.pid}")
        time.sleep(600)
    _sabotage(how)
    data = np.arange(16, dtype=np.float32)

    def outputs() -> list[np.ndarray]:
        doubled = data * 2
        if how == "wrong":
            doubled[3] += 0.5
        elif how == "nan":
            doubled[3] = np.nan
        elif how == "shape":
            doubled = doubled[:-1]
        return [doubled, data] if how == "more" else [doubled]

    def call() -> None:
        time.sleep(payload.get("sleep_s", 0.0))
        if how == "late":
            os.kill(os.getpid(), signal.SIGSEGV)

    return Candidate(call, outputs, {"pid": os.getpid(), "x": payload.get("x", 0)})
