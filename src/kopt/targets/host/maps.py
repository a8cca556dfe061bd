"""Operators of ai.onnx.ml that make and take maps. A map is a dict of int or str to numbers or str."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kopt.targets.host.registry import HostContext, host

ML = "ai.onnx.ml"


@host("ZipMap", domain=ML)
def zip_map(ctx: HostContext, x: np.ndarray) -> list[dict[Any, float]]:
    """A map of class to score for each row.  x: [N, C] or [C]."""
    labels = list(ctx.attr("classlabels_strings") or ctx.attr("classlabels_int64s") or ())
    rows = np.atleast_2d(x)
    if rows.shape[1] != len(labels):
        raise ValueError(f"{rows.shape[1]} columns for {len(labels)} keys")
    return [dict(zip(labels, row, strict=True)) for row in rows.tolist()]


@host("DictVectorizer", domain=ML)
def dict_vectorizer(ctx: HostContext, x: Mapping[Any, Any]) -> np.ndarray:
    """The values of a map where the vocabulary has their keys, zero or "" elsewhere: [1, C], as ONNX Runtime gives it."""
    words = list(ctx.attr("string_vocabulary") or ctx.attr("int64_vocabulary") or ())
    unknown = [key for key in x if key not in words]
    if unknown:
        raise ValueError(f"the vocabulary lacks {unknown[0]!r}")
    dtype = ctx.node.output.tensor.dtype.numpy
    blank: Any = "" if dtype.kind == "O" else 0
    return np.asarray([[x.get(word, blank) for word in words]], dtype).reshape(1, len(words))


@host("CastMap", domain=ML)
def cast_map(ctx: HostContext, x: Mapping[int, Any]) -> np.ndarray:
    """The values of a map in the order of their keys, or where their keys say: [1, C]."""
    dtype = ctx.node.output.tensor.dtype.numpy
    keys = sorted(x)
    found = [_converted(x[key], dtype) for key in keys]
    if ctx.attr("map_form") != "SPARSE":
        return np.asarray([found], dtype).reshape(1, len(found))
    width = int(ctx.attr("max_map"))
    if keys and not 0 <= keys[0] <= keys[-1] < width:
        raise ValueError(f"a key lies outside 0 to {width - 1}")
    filled = np.full((1, width), "" if dtype.kind == "O" else 0, dtype)
    filled[0, keys] = np.asarray(found, dtype)
    return filled


def _converted(item: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "O":
        return item if isinstance(item, str) else f"{item:g}"
    return int(float(item)) if dtype.kind == "i" else float(item)
