"""The parent's side of one child: requests, limits, and an end that leaves nothing running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any, cast

import psutil

from kopt.errors import ToolchainError
from kopt.trial.outcome import Failure, Outcome, outcome_from_json
from kopt.trial.request import Limits, TrialRequest

_LOOK_S = 0.05
"""How often a busy child's memory is looked at: often enough for what a few cores can fill meanwhile, rarely enough to cost nothing."""


class Child:
    """One child process with its whole process group."""

    def __init__(self, preload: str, limits: Limits, environment: Mapping[str, str]) -> None:
        """Start it and wait until its module is imported.

        Raises:
            ToolchainError: it cannot start, or the module cannot be imported.
        """
        # The kernel ties "dies with its parent" to the thread that forked; only the main thread surely lives as long.
        follow = threading.current_thread() is threading.main_thread()
        about = {"parent": os.getpid(), "address_bytes": limits.address_bytes, "follow": follow}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kopt.trial.child", preload, json.dumps(about)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,
        )
        self.num_trials = 0
        self._limits = limits
        self._buffer = b""
        self._said: deque[bytes] = deque(maxlen=8)
        self._ended = False
        threading.Thread(target=self._listen, daemon=True).start()
        problem = "interrupted"
        try:
            answer = self._receive(limits.start_s, limits)
            problem = answer.detail if isinstance(answer, Failure) else str(answer.get("unusable", ""))
        finally:
            if problem:
                self.close()
        if problem:
            raise ToolchainError(f"a child for trials cannot start: {problem}", where=preload, next_step="see `kopt doctor`")

    @property
    def is_alive(self) -> bool:
        """Whether it can take another request."""
        return not self._ended and self._exit_status() is None

    def ask(self, request: TrialRequest, limits: Limits) -> Outcome:
        """Try one candidate; the child is unusable after a crash, a hang or too much memory."""
        self.num_trials += 1
        line = {
            "entry": request.entry,
            "payload": dict(request.payload),
            "reference": None if request.reference is None else str(request.reference),
            "tolerance": request.tolerance,
            "timing": asdict(request.timing),
        }
        stdin = cast("IO[bytes]", self._process.stdin)
        with suppress(BrokenPipeError):  # the child is gone; the answer says how
            stdin.write(json.dumps(line).encode() + b"\n")
            stdin.flush()
        answer = self._receive(limits.seconds, limits)
        if isinstance(answer, Failure):
            self.close()
            return answer
        return outcome_from_json(answer)

    def close(self) -> None:
        """Kill the group and whatever of its descendants left the group, and wait."""
        self._ended = True
        pid = self._process.pid
        strays: list[psutil.Process] = []
        with suppress(psutil.Error):
            strays = psutil.Process(pid).children(recursive=True)
        if self._process.returncode is None:  # until it is waited for, its id cannot belong to another group
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        for stray in strays:
            with suppress(psutil.Error):
                stray.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError, OSError):
                    stream.close()

    def _receive(self, seconds: float, limits: Limits) -> dict[str, Any] | Failure:
        """The next line, or why none will come."""
        stdout = cast("IO[bytes]", self._process.stdout)
        deadline = time.monotonic() + seconds
        with DefaultSelector() as selector:
            selector.register(stdout.fileno(), EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0:
                    return Failure("hang", f"no answer within {seconds:g} s")
                if selector.select(min(left, _LOOK_S)):
                    received = os.read(stdout.fileno(), 1 << 16)
                    if not received:
                        return self._death()
                    self._buffer += received
                    continue
                used = self._resident_bytes()
                if limits.memory_bytes is not None and used > limits.memory_bytes:
                    return Failure("memory", f"{used / 1e6:.0f} MB resident, {limits.memory_bytes / 1e6:.0f} MB allowed")
                if used == 0 and self._exit_status() is not None:  # a process it forked may still hold the pipe open
                    return self._death()
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return cast("dict[str, Any]", json.loads(line))
        except ValueError:
            return Failure("crash", "it wrote over its answers")

    def _resident_bytes(self) -> int:
        """Resident memory now; 0 once it has ended."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def _exit_status(self) -> tuple[int, int] | None:
        """How it ended (code, status as in ``waitid``), without reaping it; None while it runs."""
        try:
            found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return (os.CLD_EXITED, self._process.returncode or 0)
        return None if found is None else (found.si_code, found.si_status)

    def _death(self) -> Failure:
        """The child closed its pipe, so it ends or has ended: how?"""
        deadline = time.monotonic() + 2.0
        while (status := self._exit_status()) is None and time.monotonic() < deadline:
            time.sleep(0.002)
        if status is None:
            return Failure("crash", "it closed its answers and went on")
        last = b"".join(self._said).decode(errors="replace").strip().splitlines()
        words = f": {last[-1][:200]}" if last else ""
        code, number = status
        if code == os.CLD_EXITED:
            return Failure("crash", f"exited with code {number}{words}")
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        if number == signal.SIGKILL:  # the kernel's answer to exhausted memory; nobody else kills it before an answer is due
            return Failure("memory", f"killed by {name}")
        return Failure("crash", f"{name}{words}")

    def _listen(self) -> None:
        """Keep the last that was printed, however much it is."""
        stderr = cast("IO[bytes]", self._process.stderr)
        with suppress(OSError, ValueError), stderr:
            while received := os.read(stderr.fileno(), 1 << 14):
                self._said.append(received)
