"""The child's side of a trial: it answers one JSON line per request, and ends with its parent.

Usage: ``python -m kopt.trial.child MODULE LIMITS`` where LIMITS is JSON. A guard process in the same process group waits for
the parent's end of standard input to close and then kills the whole group: compilers started by a candidate, and a candidate
that hangs with the interpreter locked, do not outlive the parent, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from kopt.measure import Measurement, time_block
from kopt.trial.outcome import Failure, Measured, Outcome, outcome_to_json
from kopt.trial.request import Candidate, Timing

_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = ("out of memory", "bad_alloc", "resource_exhausted", "cannot allocate memory")


def main(arguments: list[str]) -> int:
    """Serve until standard input closes."""
    module, limits = arguments[0], json.loads(arguments[1])
    parent = int(limits["parent"])
    _protect(parent, limits)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a candidate prints must not mix with the answers

    def reply(answer: Mapping[str, Any]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    try:
        if module:
            import_module(module)
    except Exception as error:  # the parent turns it into an error of its own
        reply({"unusable": f"{type(error).__name__}: {error}"})
        return 1
    reply({"ready": True})
    for line in sys.stdin:
        reply(outcome_to_json(_try(json.loads(line))))
    return 0


def _protect(parent: int, limits: Mapping[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits["address_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limits["address_bytes"], limits["address_bytes"]))
    if limits["follow"] and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this was in place
        os._exit(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads, which numpy has; the guard calls nothing but the system
        if os.fork() == 0:
            _guard()


def _guard() -> None:
    """Wait until the last writer of standard input is gone, then end the group, this process included."""
    try:
        os.close(1)
        os.close(2)
        poll = select.poll()
        poll.register(0, 0)  # hang-up is always told; the requests themselves are not for this process
        poll.poll()
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(1)


def _try(request: Mapping[str, Any]) -> Outcome:
    start = time.perf_counter()
    try:
        outcome = _measure(request)
    except MemoryError as error:
        outcome = Failure("memory", _one_line(error))
    except Exception as error:  # any compiler's own exception is a result here
        text = _one_line(error)
        outcome = Failure("memory" if any(words in text.lower() for words in _OUT_OF_MEMORY) else "error", text)
    seconds = time.perf_counter() - start
    if isinstance(outcome, Failure):
        return Failure(outcome.kind, outcome.detail, seconds)
    return Measured(outcome.measurement, outcome.complete, outcome.error, seconds, outcome.facts)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]


def _measure(request: Mapping[str, Any]) -> Outcome:
    module, _, function = request["entry"].partition(":")
    entry: Callable[[Mapping[str, Any]], Candidate] = getattr(import_module(module), function)
    candidate = entry(request["payload"])
    error: float | None = None
    if request["reference"] is not None and candidate.outputs is not None:
        wrong, error = difference(candidate.outputs(), _reference(request["reference"]), request["tolerance"])
        if wrong:
            return Failure("wrong", wrong)
    timing = Timing(**request["timing"])
    for _ in range(timing.warmup_calls):
        candidate.call()
    samples = time_block(candidate.call, 0.0, timing.first_calls, timing.max_s)
    complete = timing.give_up_ns is None or min(samples) <= timing.give_up_ns
    if complete:
        missing = max(0, timing.min_calls - len(samples))
        rest_s = timing.block_s - sum(samples) / 1e9
        if missing or rest_s > 0:
            samples += time_block(candidate.call, max(0.0, rest_s), missing, max(0.0, timing.max_s - sum(samples) / 1e9))
    return Measured(Measurement((tuple(samples),)), complete, error, 0.0, candidate.facts)


@lru_cache(maxsize=4)
def _reference(path: str) -> tuple[np.ndarray, ...]:
    with np.load(path, allow_pickle=False) as stored:
        return tuple(stored[str(k)] for k in range(len(stored.files)))


def difference(found: Any, wanted: tuple[np.ndarray, ...], tolerance: float) -> tuple[str, float]:
    """What is wrong, "" for nothing, and the largest error relative to the largest value of each wanted array."""
    found = list(found)
    if len(found) != len(wanted):
        return f"{len(found)} outputs instead of {len(wanted)}", float("inf")
    worst = 0.0
    for index, (given, reference) in enumerate(zip(found, wanted, strict=True)):
        array = np.asarray(given)
        if array.shape != reference.shape:
            return f"output {index} has shape {list(array.shape)} instead of {list(reference.shape)}", float("inf")
        have, want = array.astype(np.float64), reference.astype(np.float64)
        special = ~np.isfinite(want)
        if not np.array_equal(have[special], want[special], equal_nan=True) or not np.isfinite(have[~special]).all():
            return f"output {index} has other NaN or infinite values", float("inf")
        scale = float(np.abs(want[~special]).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(have[~special] - want[~special]).max(initial=0.0)) / scale)
    return (f"differs by {worst:.2g} of the largest value, not {tolerance:.2g}" if worst > tolerance else ""), worst


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
