"""What may be around the tensors at the border of a model: sequences, optionals and maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kopt.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type

SEQUENCE, OPTIONAL, MAP = "sequence", "optional", "map"

Wrappers = tuple[str, ...]
"""From the outside in; a map names the type of its keys, as in "map:i64"."""


def unwrap(type_: Type) -> tuple[TensorType, Wrappers]:
    """The tensor type inside, and what is around it."""
    around: list[str] = []
    while not isinstance(type_, TensorType):
        if isinstance(type_, MapType):
            around.append(f"{MAP}:{type_.key}")
        else:
            around.append(SEQUENCE if isinstance(type_, SequenceType) else OPTIONAL)
        type_ = type_.element
    return type_, tuple(around)


def wrap(tensor: TensorType, around: Wrappers) -> Type:
    """The type that ``unwrap`` took apart.

    Raises:
        ValueError: no such wrapper or type of keys.
    """
    type_: Type = tensor
    for word in reversed(around):
        kind, _, key = word.partition(":")
        if kind == MAP:
            type_ = MapType(DType(key), type_)
        elif word in (SEQUENCE, OPTIONAL):
            type_ = SequenceType(type_) if word == SEQUENCE else OptionalType(type_)
        else:
            raise ValueError(f"no wrapper '{word}'")
    return type_


def on_host(item: Any) -> Any:
    """A value of any type with its arrays as numpy's: lists for sequences, dicts for maps, None for what is absent."""
    if item is None or isinstance(item, Mapping):
        return item
    return [on_host(member) for member in item] if isinstance(item, list | tuple) else np.asarray(item)


def leaves(item: Any) -> Iterator[np.ndarray]:
    """The arrays in a value of any type, in order; the values of a map as one array each."""
    if isinstance(item, Mapping):
        for key in sorted(item):
            yield from leaves(item[key])
    elif isinstance(item, list | tuple):
        for member in item:
            yield from leaves(member)
    elif item is not None:
        array = np.asarray(item)
        yield array.astype(object) if array.dtype.kind in "US" else array


def same_form(one: Any, other: Any) -> bool:
    """Whether two values are absent, sequences of one length or maps of one set of keys, alike down to their arrays."""
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        return isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys()
    if isinstance(one, Sequence) or isinstance(other, Sequence):
        alike = isinstance(one, Sequence) and isinstance(other, Sequence) and len(one) == len(other)
        return alike and all(same_form(a, b) for a, b in zip(one, other, strict=True))
    return (one is None) == (other is None)
