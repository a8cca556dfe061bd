"""The spelling of passes: ``name{option=value,option=value}`` and back.

The same text is the command line, part of the cache key and the name in reports. Values are numbers, true, false, bare
words, or JSON for anything else: ``bind-shapes{dims={"batch": 8}}``. Options equal to their default are not spelled.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kopt.errors import UsageError
from kopt.ir.types import DType
from kopt.passes.base import Pass, registered_passes

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.*/-]*")
_RESERVED = {"true", "false", "null"}


def format_pass(pass_: Pass) -> str:
    """The spelling of one pass."""
    options = []
    for field in dataclasses.fields(pass_):  # type: ignore[arg-type]
        value = getattr(pass_, field.name)
        if not _equal(value, _default(field)):
            options.append(f"{field.name}={_format_value(value)}")
    return f"{pass_.name}{{{','.join(options)}}}" if options else pass_.name


def format_passes(passes: Iterable[Pass]) -> str:
    """The spelling of several passes, separated by commas."""
    return ",".join(format_pass(pass_) for pass_ in passes)


def parse_passes(text: str) -> tuple[Pass, ...]:
    """The passes that ``text`` spells, in order.

    Raises:
        UsageError: not a list of passes, an unknown name, or an option the pass does not have.
    """
    return tuple(_parse_one(part) for part in split_top(text, ",") if part.strip())


def _parse_one(text: str) -> Pass:
    name, brace, rest = text.strip().partition("{")
    classes = registered_passes()
    if name not in classes:
        raise UsageError(f"unknown pass '{name}'", next_step=f"choose from: {', '.join(sorted(classes))}")
    if brace and not rest.endswith("}"):
        raise UsageError(f"'{text}' lacks a closing brace", next_step=f"write {name}{{option=value,...}}")
    cls = classes[name]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    options: dict[str, Any] = {}
    for item in split_top(rest[:-1], ",") if brace else ():
        key, equals, value = item.strip().partition("=")
        if not equals or key not in fields:
            known = ", ".join(fields) or "none"
            raise UsageError(f"pass '{name}' has no option '{key}'", next_step=f"its options are: {known}")
        options[key] = _parse_value(value.strip(), _default(fields[key]), f"{name}: {key}")
    try:
        return cls(**options)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise UsageError(f"pass '{name}' does not accept these options: {error}", next_step="see `kopt optimize --list-passes`") from error


def split_top(text: str, separator: str) -> list[str]:
    """``text`` cut at separators outside of brackets and quotes."""
    parts, depth, quoted, start, k = [], 0, False, 0, 0
    while k < len(text):
        char = text[k]
        if quoted:
            k += char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
        elif char == separator and not depth:
            parts.append(text[start:k])
            start = k + 1
        k += 1
    return [*parts, text[start:]]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _format_value(value: Any) -> str:
    if isinstance(value, str) and _WORD.fullmatch(value) and value not in _RESERVED:
        return str(value)
    return json.dumps(_plain(value), separators=(",", ":"))


def _plain(value: Any) -> Any:
    """``value`` in JSON's vocabulary; arrays carry their element type and shape."""
    if isinstance(value, np.ndarray):
        return {"dtype": str(DType.from_numpy(value.dtype)), "shape": list(value.shape), "values": value.ravel().tolist()}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _parse_value(text: str, default: Any, what: str) -> Any:
    if _WORD.fullmatch(text) and text not in _RESERVED:
        value: Any = text
    else:
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{what}: '{text}' is not a value: {error.msg}", next_step="quote text as in JSON") from error
    value = _rich(value)
    if isinstance(default, frozenset) and isinstance(value, tuple):
        return frozenset(value)
    if isinstance(default, tuple) and isinstance(value, str):
        return (value,)
    _check_kind(value, default, what)
    return float(value) if isinstance(default, float) and isinstance(value, int) else value


def _check_kind(value: Any, default: Any, what: str) -> None:
    for kind in (bool, int, str, tuple):
        if isinstance(default, kind) and not isinstance(value, kind):
            raise UsageError(f"{what} must be {kind.__name__}, not {value!r}", next_step=f"the default is {default!r}")
    if isinstance(default, int) and not isinstance(default, bool) and isinstance(value, bool):
        raise UsageError(f"{what} must be a number, not {value!r}", next_step=f"the default is {default!r}")


def _rich(value: Any) -> Any:
    """JSON's values as options hold them: tuples and arrays."""
    if isinstance(value, list):
        return tuple(_rich(item) for item in value)
    if isinstance(value, dict):
        if value.keys() == {"dtype", "shape", "values"}:
            return np.asarray(value["values"], DType(value["dtype"]).numpy).reshape(value["shape"])
        return {key: _rich(item) for key, item in value.items()}
    return value
