"""How many threads XLA's CPU client gets. It is decided once per process, when JAX starts its CPU client."""

from __future__ import annotations

import os
import sys

from kopt.errors import UsageError
from kopt.hardware import available_cores

_VARIABLE = "NPROC"  # read by XLA when the CPU client is created
_asked_for: list[int] = []


def limit_threads(threads: int | None) -> None:
    """Let XLA use ``threads`` threads, by default as many as this process has cores; call it before JAX starts.

    Raises:
        UsageError: JAX already runs with another number, or the number is not positive.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads are not possible", next_step="give at least 1")
    if _started():
        running = _asked_for[-1] if _asked_for else _default()
        if threads not in (None, running):
            raise UsageError(
                f"{threads} threads were asked for, but JAX already runs with {running}, which cannot change any more",
                where=f"process {os.getpid()}",
                next_step=f"ask for {running}, call kopt before anything else that uses JAX, or use a process of its own, "
                f"such as `kopt ... --threads {threads}`",
            )
    elif threads is not None:
        os.environ[_VARIABLE] = str(threads)
        _asked_for.append(threads)
    else:
        _default()


def _default() -> int:
    """The number XLA takes where none is asked for: that of its variable, which is set to all cores where it is not."""
    given = os.environ.setdefault(_VARIABLE, str(available_cores()))
    return int(given) if given.isdecimal() and int(given) else available_cores()


def _started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    asked = getattr(bridge, "backends_are_initialized", None)
    return bool(asked()) if asked is not None else bridge is not None
