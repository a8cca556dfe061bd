"""Random numbers and Dropout. A node draws the same numbers in every run: from its ``seed``, or else from its name."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kopt.ir.types import DType
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _key(ctx: LoweringContext) -> Array:
    """The generator's key, which is fixed when compiling."""
    seed = ctx.attr("seed")
    number = zlib.crc32(ctx.node.name.encode()) if seed is None else zlib.crc32(np.float32(seed).tobytes())
    return jax.random.key(number)


def _drawn_kind(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)


def _kind(ctx: LoweringContext) -> np.dtype:
    return ctx.node.output.tensor.dtype.numpy


def _normal(ctx: LoweringContext, shape: tuple[int, ...]) -> Array:
    drawn = jax.random.normal(_key(ctx), shape, _drawn_kind(_kind(ctx)))
    return (drawn * ctx.attr("scale") + ctx.attr("mean")).astype(_kind(ctx))


def _uniform(ctx: LoweringContext, shape: tuple[int, ...]) -> Array:
    drawn = jax.random.uniform(_key(ctx), shape, _drawn_kind(_kind(ctx)), ctx.attr("low"), ctx.attr("high"))
    return drawn.astype(_kind(ctx))


@lowers("RandomNormal")
def random_normal(ctx: LoweringContext) -> Array:
    """Normal numbers of a given shape."""
    return _normal(ctx, tuple(ctx.attr("shape")))


@lowers("RandomNormalLike")
def random_normal_like(ctx: LoweringContext, x: Array) -> Array:
    """Normal numbers in the shape of the input."""
    return _normal(ctx, x.shape)


@lowers("RandomUniform")
def random_uniform(ctx: LoweringContext) -> Array:
    """Uniform numbers of a given shape."""
    return _uniform(ctx, tuple(ctx.attr("shape")))


@lowers("RandomUniformLike")
def random_uniform_like(ctx: LoweringContext, x: Array) -> Array:
    """Uniform numbers in the shape of the input."""
    return _uniform(ctx, x.shape)


@lowers("Bernoulli")
def bernoulli(ctx: LoweringContext, x: Array) -> Array:
    """One with the probability that the input gives, else zero."""
    kind = _drawn_kind(x.dtype)
    return (jax.random.uniform(_key(ctx), x.shape, kind) < jnp.asarray(x).astype(kind)).astype(_kind(ctx))


@lowers("Multinomial")
def multinomial(ctx: LoweringContext, x: Array) -> Array:
    """``sample_size`` classes for each row of unnormalised log-probabilities.  x: (B, classes)."""
    count = int(ctx.attr("sample_size"))
    logits = jnp.asarray(x).astype(_drawn_kind(x.dtype))
    drawn = jax.random.categorical(_key(ctx), logits[:, None, :], shape=(x.shape[0], count))
    return drawn.astype(DType.from_onnx(ctx.attr("dtype")).numpy)


@lowers("Dropout", static=(2,))
def dropout(ctx: LoweringContext, x: Array, ratio: Any = None, training: Any = None) -> tuple[Array, Array]:
    """The input itself, unless ``training_mode`` asks to drop a part of it and to scale up the rest."""
    x = jnp.asarray(x)
    if training is None or not training.item():
        return x, jnp.ones(x.shape, np.bool_)
    wide = _drawn_kind(x.dtype)
    share = jnp.asarray(0.5 if ratio is None else ratio).reshape(()).astype(wide)
    mask = jax.random.uniform(_key(ctx), x.shape, wide) >= share
    scale = jnp.where(share < 1, 1 / jnp.where(share < 1, 1 - share, 1), 0)
    return jnp.where(mask, x.astype(wide) * scale, 0).astype(x.dtype), mask
