"""Operators that take strings apart, join, compare and count them. Strings are object arrays of str."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from kopt.ir.types import DType
from kopt.targets.host.registry import HostContext, host


def texts(array: np.ndarray, function: Callable[[str], Any], dtype: Any = object) -> np.ndarray:
    """``function`` of every string."""
    return np.asarray([function(item) for item in array.ravel().tolist()], dtype).reshape(array.shape)


@host("StringConcat")
def string_concat(ctx: HostContext, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Elementwise concatenation, with broadcasting."""
    del ctx
    return np.asarray(np.frompyfunc(lambda left, right: left + right, 2, 1)(a, b), object)


@host("Equal")
def equal(ctx: HostContext, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether strings are equal, with broadcasting."""
    del ctx
    return np.asarray(np.frompyfunc(lambda left, right: left == right, 2, 1)(a, b), np.bool_)


@host("StringSplit")
def string_split(ctx: HostContext, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts between delimiters along a new last axis, filled up with empty strings, and how many parts each string has."""
    delimiter, limit = ctx.attr("delimiter") or None, ctx.attr("maxsplit")
    parts = [item.split(delimiter, -1 if limit is None else int(limit)) if item else [] for item in x.ravel().tolist()]
    width = max(map(len, parts), default=0)
    filled = np.full((len(parts), width), "", object)
    for row, part in zip(filled, parts, strict=True):
        row[: len(part)] = part
    counts = np.asarray([len(part) for part in parts], np.int64).reshape(x.shape)
    return filled.reshape(*x.shape, width), counts


@host("RegexFullMatch")
def regex_full_match(ctx: HostContext, x: np.ndarray) -> np.ndarray:
    """Whether the pattern matches whole strings."""
    pattern = re.compile(str(ctx.attr("pattern")))
    return texts(x, lambda item: pattern.fullmatch(item) is not None, np.bool_)


@host("StringNormalizer")
def string_normalizer(ctx: HostContext, x: np.ndarray) -> np.ndarray:
    """Without stopwords and in one case; an empty result keeps one empty string. x is [C] or [1, C]."""
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        raise ValueError(f"the shape {list(x.shape)} is neither [C] nor [1, C]")
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(str(ctx.attr("case_change_action")), str)
    stops = [str(word) for word in ctx.attr("stopwords", ())]
    kept = x.ravel().tolist()
    if ctx.attr("is_case_sensitive"):
        kept = [word for word in kept if word not in set(stops)]
    else:
        lowered = {word.lower() for word in stops}
        kept = [word for word in kept if word.lower() not in lowered]
    found = np.asarray([change(word) for word in kept] or [""], object)
    return found.reshape(1, -1) if x.ndim == 2 else found


@host("Cast", "CastLike")
def cast(ctx: HostContext, x: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Numbers from strings and strings from numbers."""
    del like
    type_ = ctx.node.output.tensor.dtype
    if type_ is DType.STRING:
        return x if x.dtype == object else np.asarray([_spelled(item, x.dtype) for item in x.ravel()], object).reshape(x.shape)
    if type_ is DType.BOOL:
        return texts(x, lambda item: bool(float(item)), np.bool_)
    if type_.is_integer:
        return texts(x, lambda item: int(float(item)) if _has_point(item) else int(item), np.int64).astype(type_.numpy)
    return texts(x, float, np.float64).astype(type_.numpy)


def _has_point(item: str) -> bool:
    return any(sign in item.lower() for sign in ".en")


def _spelled(item: Any, dtype: np.dtype) -> str:
    """A number in as few digits as its type needs. Source: ONNX Cast: NaN, INF, -INF; 1 and 0 for booleans."""
    if dtype.kind == "b":
        return str(int(item))
    if dtype.kind in "iu":
        return str(int(item))
    value = float(item)
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else "INF" if value > 0 else "-INF"
    return np.format_float_positional(item, trim="-") if 1e-4 <= abs(value) < 1e16 or value == 0 else str(item)
