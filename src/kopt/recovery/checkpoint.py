"""Progress of a recovery in a file beside its output, so that an interrupted one goes on."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kopt.errors import FileError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class State:
    """Where gradient descent is.

    Attributes:
        params, first, second: parameters and Adam's moments.
        best: parameters with the least held-out error.
        step: steps done.
        seconds: time used.
        best_error, best_step: the least held-out error and when it was seen.
        start_error: the held-out error before the first step.
    """

    params: Arrays
    first: Arrays
    second: Arrays
    best: Arrays
    step: int
    seconds: float
    best_error: float
    best_step: int
    start_error: float


_PARTS = ("params", "first", "second", "best")
_NUMBERS = ("step", "seconds", "best_error", "best_step", "start_error")


def save_state(path: Path, state: State, key: str) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        FileError: the folder cannot be written.
    """
    arrays = {f"{part}/{name}": np.ascontiguousarray(array) for part in _PARTS for name, array in getattr(state, part).items()}
    numbers = json.dumps({name: getattr(state, name) for name in _NUMBERS})
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        save_file(arrays, part, metadata={"key": key, "numbers": numbers})
        os.replace(part, path)
    except OSError as error:
        raise FileError(
            f"cannot write the checkpoint: {error.strerror or error}", where=str(path), next_step="check the folder and its space"
        ) from None


def load_state(path: Path, key: str) -> State | None:
    """The checkpoint of the same recovery, None where there is none that can be used."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            numbers = json.loads(metadata["numbers"])
            parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
            for name in file.keys():  # noqa: SIM118 - not a mapping
                part, _, own = name.partition("/")
                parts[part][own] = file.get_tensor(name)
            return State(
                parts["params"],
                parts["first"],
                parts["second"],
                parts["best"],
                int(numbers["step"]),
                float(numbers["seconds"]),
                float(numbers["best_error"]),
                int(numbers["best_step"]),
                float(numbers["start_error"]),
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
