"""Inputs and outputs of any type as the arrays of an .npz: members of a sequence NAME are NAME/0, NAME/1, ..., a map is NAME/keys
and NAME/values, an optional that is absent has no array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kopt.cli.common import select_inputs
from kopt.ir.wrappers import MAP, OPTIONAL, SEQUENCE, Wrappers

if TYPE_CHECKING:
    from kopt.targets.base import Signature


def gathered(given: Mapping[str, np.ndarray], signature: Signature) -> dict[str, Any]:
    """The inputs of a model from named arrays; what is beside a complete set is named on stderr."""
    around = signature.around
    wrapped = [name for name, _ in signature.inputs if name in around]
    plain = {name: array for name, array in given.items() if not any(_belongs(name, whole) for whole in wrapped)}
    feeds: dict[str, Any] = select_inputs(plain, [name for name, _ in signature.inputs if name not in around])
    return {**feeds, **{name: _value(given, name, around[name]) for name in wrapped}}


def _belongs(name: str, whole: str) -> bool:
    return name == whole or name.startswith(f"{whole}/")


def _value(given: Mapping[str, np.ndarray], name: str, around: Wrappers) -> Any:
    if not around:
        return given.get(name)
    kind, rest = around[0], around[1:]
    if kind == OPTIONAL:
        return _value(given, name, rest) if any(_belongs(one, name) for one in given) else None
    if kind.startswith(MAP):
        keys, values = given.get(f"{name}/keys"), given.get(f"{name}/values")
        return None if keys is None or values is None else dict(zip(keys.tolist(), values.tolist(), strict=True))
    members: list[Any] = []
    while any(_belongs(one, f"{name}/{len(members)}") for one in given):
        members.append(_value(given, f"{name}/{len(members)}", rest))
    return members


def spread(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The named arrays that hold a value; text as numpy's own."""
    if isinstance(value, Mapping):
        yield f"{name}/keys", np.asarray(list(value))
        yield f"{name}/values", np.asarray(list(value.values()))
    elif isinstance(value, list | tuple):
        for index, member in enumerate(value):
            yield from spread(f"{name}/{index}", member)
    elif value is not None:
        array = np.asarray(value)
        yield name, array.astype(str) if array.dtype == object else array


def described(value: Any) -> str:
    """A value's type for people."""
    if value is None:
        return "absent"
    if isinstance(value, Mapping):
        return f"map of {len(value)}"
    if isinstance(value, list | tuple):
        return f"{SEQUENCE} of {len(value)}" + (f": {', '.join(map(described, value))}" if value else "")
    return f"{value.dtype}{list(value.shape)}"


def facts(value: Any) -> Any:
    """A value's type in JSON types."""
    if isinstance(value, Mapping):
        return {"keys": list(value)}
    if isinstance(value, list | tuple):
        return [facts(member) for member in value]
    return None if value is None else {"dtype": str(value.dtype), "shape": list(value.shape)}
