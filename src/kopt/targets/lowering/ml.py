"""Feature operators of ai.onnx.ml on numbers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.ir.constant import Constant
from kopt.targets.lowering.ml_score import rows_of
from kopt.targets.lowering.registry import Array, LoweringContext, lowers

ML = "ai.onnx.ml"


@lowers("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(ctx: LoweringContext, x: Array, indices: Array) -> Array:
    """Elements of the last axis; a vector is one row."""
    del ctx
    x = jnp.asarray(x)
    return jnp.take(x if x.ndim > 1 else x.reshape(1, -1), jnp.asarray(indices).reshape(-1), -1, mode="clip")


@lowers("Binarizer", domain=ML)
def binarizer(ctx: LoweringContext, x: Array) -> Array:
    """1 above the threshold, else 0."""
    x = jnp.asarray(x)
    return (x > np.asarray(ctx.attr("threshold"), x.dtype)).astype(x.dtype)


@lowers("FeatureVectorizer", domain=ML)
def feature_vectorizer(ctx: LoweringContext, *inputs: Array) -> Array:
    """Inputs side by side as f32, each cut or filled with zeros to its stated size."""
    parts = []
    for x, size in zip(inputs, ctx.attr("inputdimensions", ()), strict=True):
        rows = rows_of(x).astype(np.float32)
        parts.append(jnp.pad(rows[:, :size], [(0, 0), (0, max(0, size - rows.shape[1]))]))
    return jnp.concatenate(parts, 1)


@lowers("Imputer", domain=ML)
def imputer(ctx: LoweringContext, x: Array) -> Array:
    """One value replaced, by one for all or by one per feature."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        old, new = np.asarray(ctx.attr("replaced_value_float", 0.0), x.dtype), ctx.attr("imputed_value_floats")
        found = jnp.isnan(x) if np.isnan(old) else x == old
    else:
        new = ctx.attr("imputed_value_int64s")
        found = x == np.asarray(ctx.attr("replaced_value_int64", 0), x.dtype)
    if not new:
        raise ctx.unsupported("it states no value to impute")
    return jnp.where(found, np.asarray(new, x.dtype), x)


@lowers("Normalizer", domain=ML)
def normalizer(ctx: LoweringContext, x: Array) -> Array:
    """Rows divided by their largest value, sum of magnitudes, or length; unchanged where that is 0."""
    x = jnp.asarray(x).astype(np.float32)
    norm = str(ctx.attr("norm"))
    if norm == "MAX":
        size = jnp.max(x, -1, keepdims=True)
    elif norm == "L1":
        size = jnp.sum(jnp.abs(x), -1, keepdims=True)
    elif norm == "L2":
        size = jnp.sqrt(jnp.sum(x * x, -1, keepdims=True))
    else:
        raise ctx.unsupported(f"there is no norm '{norm}'")
    return jnp.where(size == 0, x, x / jnp.where(size == 0, 1, size))


@lowers("Scaler", domain=ML)
def scaler(ctx: LoweringContext, x: Array) -> Array:
    """(x - offset) * scale as f32."""
    offset, scale = (np.asarray(ctx.attr(name) or (neutral,), np.float32) for name, neutral in (("offset", 0), ("scale", 1)))
    return (jnp.asarray(x).astype(np.float32) - offset) * scale


@lowers("OneHotEncoder", domain=ML)
def one_hot_encoder(ctx: LoweringContext, x: Array) -> Array:
    """A new last axis that is 1 at the place of the category; all 0 for others."""
    categories = ctx.attr("cats_int64s")
    if not categories:
        raise ctx.unsupported("categories that are text have no lowering")
    return (jnp.asarray(x).astype(np.int64)[..., None] == np.asarray(categories, np.int64)).astype(np.float32)


_KINDS = {"int64s": np.int64, "floats": np.float32}


def _listed(ctx: LoweringContext, name: str) -> np.ndarray:
    """Keys or values, whichever attribute holds them."""
    held = ctx.attr(f"{name}_tensor")
    if isinstance(held, Constant):
        array = held.array().reshape(-1)
        if array.dtype != object:
            return array
    for kind, dtype in _KINDS.items():
        found: Any = ctx.attr(f"{name}_{kind}")
        if found:
            return np.asarray(found, dtype)
    raise ctx.unsupported(f"{name} that are text have no lowering")


@lowers("LabelEncoder", domain=ML)
def label_encoder(ctx: LoweringContext, x: Array) -> Array:
    """The value of each key; the last of equal keys counts. Source: ai.onnx.ml LabelEncoder-4."""
    keys, values = _listed(ctx, "keys"), _listed(ctx, "values")
    if len(keys) != len(values):
        raise ctx.unsupported(f"{len(keys)} keys and {len(values)} values")
    given = ctx.attr("default_tensor")
    if isinstance(given, Constant):
        default = given.array().reshape(())
    else:
        default = np.asarray(ctx.attr("default_float", -0.0) if values.dtype.kind == "f" else ctx.attr("default_int64", -1), values.dtype)
    x = jnp.asarray(x)
    unique, where = np.unique(keys[::-1], return_index=True)  # NaN comes last and only once
    best = values[::-1][where]
    place = jnp.clip(jnp.searchsorted(unique, x), 0, len(unique) - 1)
    found = jnp.asarray(unique)[place]
    same = (found == x) | (jnp.isnan(found) & jnp.isnan(x))
    return jnp.where(same, jnp.asarray(best)[place], jnp.asarray(default.astype(values.dtype)))
