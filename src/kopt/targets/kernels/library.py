"""Kernels compiled into one shared library that needs nothing but libc where it runs.

The compiler runs in a process of its own: TVM is large, and what it does to a process (memory, a crash) stays there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from kopt.errors import MissingDependencyError, ToolchainError
from kopt.hardware import Target
from kopt.targets.kernels.kernel import Kernel, lanes

_LINKERS = ("cc", "gcc", "clang")
_BUILD_SECONDS = 1200
_CPUS = (("avx512_bf16", "znver4"), ("avx512f", "x86-64-v4"), ("avx2", "x86-64-v3"))
"""LLVM's name of the oldest processor with a feature; of those with AVX-512 the first one does not avoid its full width."""

_FEATURES = (("avx512_vnni", "+avx512vnni"), ("avx512_bf16", "+avx512bf16"))
"""LLVM's names of instructions that kernels on narrow numbers use, whatever the processor is called."""


@lru_cache(maxsize=1)
def linker() -> str | None:
    """Path of the C compiler that links kernels, None where there is none."""
    return next((found for name in _LINKERS if (found := which(name))), None)


@lru_cache(maxsize=1)
def obstacle() -> str | None:
    """Why no kernels can be compiled on this machine, None where they can."""
    if find_spec("tvm") is None:
        return "apache-tvm is not installed"
    return None if linker() else "there is no C compiler (cc, gcc or clang) to link kernels with"


def machine_of(target: Target) -> dict[str, Any]:
    """What compiling processes are told of a target, in JSON types."""
    return {
        "lanes": lanes(target),
        "cpu": next((name for feature, name in _CPUS if feature in target.required_features), ""),
        "features": [llvm for feature, llvm in _FEATURES if feature in target.required_features],
        "linker": linker(),
    }


def described(pieces: Mapping[str, Any]) -> list[list[Any]]:
    """Frozen dataclasses by name, in JSON types."""
    return [[name, type(piece).__name__, asdict(piece)] for name, piece in pieces.items()]


def request_of(kernels: Mapping[str, Kernel], target: Target) -> dict[str, Any]:
    """What ``build`` is asked for, in JSON types."""
    return {"kernels": described(kernels), **machine_of(target)}


def build_library(kernels: Mapping[str, Kernel], target: Target) -> bytes:
    """A shared library with a handler under the name of every kernel.

    Raises:
        MissingDependencyError: TVM or a C compiler is missing.
        ToolchainError: one of them failed.
    """
    missing = obstacle()
    if missing:
        raise MissingDependencyError(f"kernels cannot be compiled: {missing}", next_step="install it, or compile without kernels")
    return compiled("kopt.targets.kernels.build", request_of(kernels, target))


def compiled(module: str, request: Mapping[str, Any]) -> bytes:
    """The shared library that ``python -m MODULE REQUEST.json LIBRARY.so`` makes in a process of its own.

    Raises:
        ToolchainError: it failed or did not end.
    """
    with tempfile.TemporaryDirectory(prefix="kopt-kernels-") as folder:
        source, library = Path(folder, "request.json"), Path(folder, "library.so")
        source.write_text(json.dumps(request))
        command = [sys.executable, "-m", module, str(source), str(library)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolchainError(f"the kernels' compiler did not finish: {error}") from error
        if done.returncode or not library.exists():
            reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"it ended with {done.returncode}")
            raise ToolchainError(f"the kernels' compiler failed: {reason}")
        return library.read_bytes()
