"""What operators of ai.onnx.ml make of raw scores. Source: ai.onnx.ml ``post_transform``; cases it leaves open as ONNX Runtime does."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv

from kopt.targets.lowering.activation import softmax
from kopt.targets.lowering.registry import Array, LoweringContext

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""Names of the transforms, in the order TreeEnsemble numbers them."""


def transformed(ctx: LoweringContext, scores: Array, name: str) -> Array:
    """``scores`` (rows, classes) after the transform ``name``; one class alone is only changed by PROBIT."""
    if name not in TRANSFORMS:
        raise ctx.unsupported(f"there is no post_transform '{name}'")
    if name == "PROBIT":
        return np.asarray(np.sqrt(2), scores.dtype) * erfinv(2 * scores - 1)
    if scores.shape[-1] == 1 or name == "NONE":
        return scores
    if name == "LOGISTIC":
        return jax.nn.sigmoid(scores)
    if name == "SOFTMAX":
        return softmax(scores, -1)
    peak = jnp.max(scores, -1, keepdims=True)
    real = jnp.abs(scores) > 1e-7  # zeros take no share
    powers = jnp.where(real, jnp.exp(scores - peak), 0)
    return jnp.where(real, powers, scores * jnp.exp(-peak)) / jnp.sum(powers, -1, keepdims=True)


def two_classes(score: Array, name: str, *, positive: bool) -> Array:
    """Both classes' scores from one, (rows, 1) ==> (rows, 2).

    Args:
        score: of the second class.
        name: the transform.
        positive: whether a score is a share of one, rather than a distance from zero.
    """
    if name == "LOGISTIC":
        return jnp.concatenate([jax.nn.sigmoid(-score), jax.nn.sigmoid(score)], -1)
    return jnp.concatenate([1 - score if positive else -score, score], -1)


def labels_of(ctx: LoweringContext, *names: str) -> np.ndarray:
    """The classes' integer labels; operators differ in the attribute's name."""
    found: Any = next((ctx.attr(name) for name in names if ctx.attr(name)), None)
    if found is None:
        raise ctx.unsupported("labels that are text have no lowering")
    return np.asarray(found, np.int64)


def rows_of(x: Array) -> Array:
    """Features as (rows, columns) of floats; a vector is one row."""
    x = jnp.asarray(x)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(np.float32)
    return x.reshape(1, -1) if x.ndim < 2 else x.reshape(x.shape[0], -1)
