"""Operators on sequences, which are lists here and never changed in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from kopt.ir.constant import Constant
from kopt.targets.host.registry import HostContext, host


@host("SequenceConstruct")
def sequence_construct(ctx: HostContext, *members: Any) -> list[Any]:
    """A sequence of the inputs."""
    del ctx
    return list(members)


@host("SequenceEmpty")
def sequence_empty(ctx: HostContext) -> list[Any]:
    """A sequence without members."""
    del ctx
    return []


@host("SequenceAt")
def sequence_at(ctx: HostContext, sequence: list[Any], position: np.ndarray) -> Any:
    """One member; negative positions count from the end."""
    del ctx
    return sequence[_position(position, len(sequence))]


@host("SequenceErase")
def sequence_erase(ctx: HostContext, sequence: list[Any], position: np.ndarray | None = None) -> list[Any]:
    """Without one member, the last by default."""
    del ctx
    at = len(sequence) - 1 if position is None else _position(position, len(sequence))
    if at < 0:
        raise IndexError("the sequence is empty")
    return [*sequence[:at], *sequence[at + 1 :]]


@host("SequenceInsert")
def sequence_insert(ctx: HostContext, sequence: list[Any], member: Any, position: np.ndarray | None = None) -> list[Any]:
    """With one more member before the position, by default at the end."""
    del ctx
    at = len(sequence) if position is None else _position(position, len(sequence), past_end=True)
    return [*sequence[:at], member, *sequence[at:]]


@host("SequenceLength")
def sequence_length(ctx: HostContext, sequence: list[Any]) -> np.ndarray:
    """The number of members."""
    del ctx
    return np.asarray(len(sequence), np.int64)


@host("ConcatFromSequence")
def concat_from_sequence(ctx: HostContext, sequence: list[np.ndarray]) -> np.ndarray:
    """The members concatenated along ``axis``, or stacked along a new one."""
    axis = int(ctx.attr("axis"))
    return np.stack(sequence, axis) if ctx.attr("new_axis") else np.concatenate(sequence, axis)


@host("SplitToSequence")
def split_to_sequence(ctx: HostContext, x: np.ndarray, split: np.ndarray | None = None) -> list[np.ndarray]:
    """Parts along ``axis``: of size 1, of one size, or of the sizes given."""
    axis = int(ctx.attr("axis"))
    size = x.shape[axis]
    if split is None:
        parts = np.split(x, size, axis) if size else []
        return parts if ctx.attr("keepdims") else [np.squeeze(part, axis) for part in parts]
    if split.ndim == 0:
        chunk = int(split.item())
        if chunk <= 0:
            raise ValueError(f"parts of size {chunk}")
        return np.split(x, list(range(chunk, size, chunk)), axis) if size else []
    if int(split.sum()) != size or (split < 0).any():
        raise ValueError(f"sizes {split.tolist()} do not add up to {size}")
    return np.split(x, np.cumsum(split)[:-1].tolist(), axis)


def _position(position: np.ndarray, size: int, *, past_end: bool = False) -> int:
    """A position within a sequence, negative ones counted from the end."""
    given = int(position.item())
    at = given + size if given < 0 else given
    if not 0 <= at < size + past_end:
        raise IndexError(f"position {given} is outside a sequence of {size}")
    return at


@host("Optional")
def optional(ctx: HostContext, value: Any = None) -> Any:
    """An optional that holds the value, or nothing."""
    del ctx
    return value


@host("OptionalHasElement")
def optional_has_element(ctx: HostContext, value: Any = None) -> np.ndarray:
    """Whether there is a value."""
    del ctx
    return np.asarray(value is not None, np.bool_)


@host("OptionalGetElement")
def optional_get_element(ctx: HostContext, value: Any) -> Any:
    """The value.

    Raises:
        ValueError: there is none.
    """
    del ctx
    if value is None:
        raise ValueError("the optional holds nothing")
    return value


@host("Constant")
def constant(ctx: HostContext) -> np.ndarray:
    """A tensor of strings."""
    value = ctx.attr("value")
    if isinstance(value, Constant):
        return value.array()
    name = next(name for name in ("value_string", "value_strings") if ctx.attr(name) is not None)
    return np.asarray(ctx.attr(name), object)
