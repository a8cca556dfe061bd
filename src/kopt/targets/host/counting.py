"""Operators that look strings and tokens up: TfIdfVectorizer and the string forms of LabelEncoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from kopt.ir.constant import Constant
from kopt.targets.host.registry import HostContext, host


@host("TfIdfVectorizer")
def tf_idf_vectorizer(ctx: HostContext, x: np.ndarray) -> np.ndarray:
    """How often each n-gram of the pool occurs, with gaps up to ``max_skip_count``; x is [C] or [N, C]."""
    if x.ndim not in (1, 2):
        raise ValueError(f"the shape {list(x.shape)} is neither [C] nor [N, C]")
    grams = _pool(ctx)
    places = np.asarray(ctx.attr("ngram_indexes"), np.int64)
    weights = ctx.attr("weights")
    width = int(places.max(initial=-1)) + 1
    rows = x.reshape(-1, x.shape[-1]) if x.ndim == 2 else x.reshape(1, -1)
    counts = np.zeros((rows.shape[0], width), np.float32)
    for row, found in zip(rows.tolist(), counts, strict=True):
        for gram in _grams(row, ctx):
            if gram in grams:
                found[places[grams[gram]]] += 1
    factor = np.ones(width, np.float32)
    if weights is not None and len(weights):
        factor[places] = np.asarray(weights, np.float32)
    mode = str(ctx.attr("mode"))
    result = counts if mode == "TF" else np.where(counts > 0, factor, 0) if mode == "IDF" else counts * factor
    return result.astype(np.float32).reshape((*x.shape[:-1], width))


def _pool(ctx: HostContext) -> dict[tuple[Any, ...], int]:
    """The n-grams of the pool with their positions; ``ngram_counts`` says where those of each length begin."""
    pool: Sequence[Any] = ctx.attr("pool_strings") or ctx.attr("pool_int64s") or ()
    starts = [*ctx.attr("ngram_counts"), len(pool)]
    grams: dict[tuple[Any, ...], int] = {}
    for length, (start, end) in enumerate(pairwise(starts), start=1):
        for at in range(start, end, length):
            grams[tuple(pool[at : at + length])] = len(grams)
    return grams


def _grams(row: Sequence[Any], ctx: HostContext) -> list[tuple[Any, ...]]:
    """The n-grams of a row of the wanted lengths; single tokens are counted once, whatever the gaps."""
    shortest, longest = int(ctx.attr("min_gram_length")), int(ctx.attr("max_gram_length"))
    found: list[tuple[Any, ...]] = []
    for length in range(shortest, longest + 1):
        for gap in range(1, 2 if length == 1 else int(ctx.attr("max_skip_count")) + 2):
            reach = gap * (length - 1)
            found += [tuple(row[at : at + reach + 1 : gap]) for at in range(len(row) - reach)]
    return found


@host("LabelEncoder", domain="ai.onnx.ml")
def label_encoder(ctx: HostContext, x: np.ndarray) -> np.ndarray:
    """What stands for each key, or the default; NaN is a key like others."""
    keys, values = _labels(ctx, "keys"), _labels(ctx, "values")
    dtype = ctx.node.output.tensor.dtype.numpy
    default = ctx.attr("default_tensor")
    fallback = (
        default.array().ravel()[0] if isinstance(default, Constant) else ctx.attr(f"default_{_kind(ctx, 'values')}", _DEFAULTS[dtype.kind])
    )
    table = {_key(key): value for key, value in zip(keys, values, strict=True)}
    return np.asarray([table.get(_key(item), fallback) for item in x.ravel().tolist()], dtype).reshape(x.shape)


_DEFAULTS = {"O": "_Unused", "i": -1, "f": -0.0}


def _kind(ctx: HostContext, part: str) -> str:
    """The last part of the attribute's name: "string", "int64" or "float"."""
    return next((kind for kind in ("string", "int64", "float") if ctx.attr(f"{part}_{kind}s") is not None), "float")


def _labels(ctx: HostContext, part: str) -> list[Any]:
    tensor = ctx.attr(f"{part}_tensor")
    if isinstance(tensor, Constant):
        return list(tensor.array().ravel().tolist())
    return list(ctx.attr(f"{part}_{_kind(ctx, part)}s") or ())


def _key(item: Any) -> Any:
    item = item.decode() if isinstance(item, bytes) else item
    return "NaN" if isinstance(item, float) and np.isnan(item) else item
