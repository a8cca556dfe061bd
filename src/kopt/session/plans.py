"""What a session does for inputs of one shape: run a program as it is, or pad to a larger batch and slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from kopt.artifact.manifest import Rows, StoredProgram
from kopt.ir.types import TensorType
from kopt.targets.base import Executable

Plan: TypeAlias = Callable[..., Sequence[Any]]
"""What is done for inputs of one shape: a function of the arrays one by one."""


@dataclass(frozen=True)
class Padded:
    """Runs a program of a larger batch: inputs are filled up with zeros, outputs cut to their rows.

    Attributes:
        executable: takes the larger batch.
        inputs: for each input its batch axis, None where it has none.
        outputs: likewise for each output.
        num_rows: rows the caller gave.
        batch: rows the program takes.
    """

    executable: Executable
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    num_rows: int
    batch: int

    def __call__(self, *arrays: Any) -> list[Any]:
        """Run on the caller's arrays."""
        padded = [array if axis is None else self._pad(np.asarray(array), axis) for array, axis in zip(arrays, self.inputs, strict=True)]
        results = self.executable(padded)
        return [
            result if axis is None else np.asarray(result)[(slice(None),) * axis + (slice(self.num_rows),)]
            for result, axis in zip(results, self.outputs, strict=True)
        ]

    def _pad(self, array: np.ndarray, axis: int) -> np.ndarray:
        shape = (*array.shape[:axis], self.batch, *array.shape[axis + 1 :])
        filled: np.ndarray = np.zeros(shape, array.dtype)
        filled[(slice(None),) * axis + (slice(self.num_rows),)] = array
        return filled


def dispatch_of(executable: Executable) -> Plan:
    """The executable as a function of its inputs one by one; results may still be under way where the backend allows it."""
    found: Plan | None = getattr(executable, "dispatch", None)
    return found if found is not None else lambda *arrays: executable(arrays)


def larger_batch(
    programs: Sequence[StoredProgram], rows: Rows | None, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]
) -> tuple[int, int, int] | None:
    """The stored program with the smallest larger batch: (its position, rows given, its batch); None when none fits."""
    if rows is None or not rows.inputs:
        return None
    given = {shapes[name][axis] for name, axis in rows.inputs.items() if name in shapes}
    if len(given) != 1:
        return None
    num_rows = given.pop()
    found: list[tuple[int, int]] = []
    for index, program in enumerate(programs):
        batch = _batch_of(program, rows)
        if batch is None or batch <= num_rows or not same_values(program.values, values):
            continue
        wanted = {name: _with_batch(shape, rows.inputs.get(name), batch) for name, shape in shapes.items()}
        if wanted == program.signature.shapes:
            found.append((batch, index))
    if not found:
        return None
    batch, index = min(found)
    return index, num_rows, batch


def axes(entries: Sequence[tuple[str, TensorType]], by_name: Mapping[str, int]) -> tuple[int | None, ...]:
    """The batch axis of each entry."""
    return tuple(by_name.get(name) for name, _ in entries)


def same_values(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Whether two sets of shape-deciding inputs are equal."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def _batch_of(program: StoredProgram, rows: Rows) -> int | None:
    sizes = {tensor.static_shape[rows.inputs[name]] for name, tensor in program.signature.inputs if name in rows.inputs}
    return sizes.pop() if len(sizes) == 1 else None


def _with_batch(shape: tuple[int, ...], axis: int | None, batch: int) -> tuple[int, ...]:
    return shape if axis is None else (*shape[:axis], batch, *shape[axis + 1 :])
