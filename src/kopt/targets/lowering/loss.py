"""Losses, and the optimizers of ``ai.onnx.preview.training``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kopt.targets.lowering.registry import Array, LoweringContext, lowers

_TRAINING = "ai.onnx.preview.training"


def _negative_likelihood(ctx: LoweringContext, scores: Array, target: Array, weight: Array | None) -> Array:
    """The loss of log-probabilities.  scores: (N, C, *d), target: (N, *d), weight: (C,), all in the type to compute in."""
    classes = scores.shape[1]
    ignored = ctx.attr("ignore_index")
    target = jnp.asarray(target).astype(np.int64)
    kept = jnp.ones(target.shape, np.bool_) if ignored is None else target != ignored
    index = jnp.where(kept, jnp.where(target < 0, target + classes, target), 0)
    picked = jnp.squeeze(jnp.take_along_axis(scores, index[:, None], 1), 1)
    factor = jnp.ones(target.shape, scores.dtype) if weight is None else jnp.take(weight, index, 0)
    factor = jnp.where(kept, factor, 0)
    losses = jnp.where(kept, -picked * factor, 0)
    reduction = ctx.attr("reduction")
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / factor.sum()


def _wide(x: Array) -> Array:
    x = jnp.asarray(x)
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


@lowers("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(ctx: LoweringContext, scores: Array, target: Array, weight: Array | None = None) -> Array:
    """Minus the weighted log-probability of the target class. Source: ONNX NegativeLogLikelihoodLoss-22."""
    loss = _negative_likelihood(ctx, _wide(scores), target, None if weight is None else _wide(weight))
    return loss.astype(scores.dtype)


@lowers("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(ctx: LoweringContext, scores: Array, labels: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """The loss of logits, and their log-probabilities. Source: ONNX SoftmaxCrossEntropyLoss-13."""
    logs = jax.nn.log_softmax(_wide(scores), 1)
    loss = _negative_likelihood(ctx, logs, labels, None if weights is None else _wide(weights))
    return loss.astype(scores.dtype), logs.astype(scores.dtype)


def _groups(arrays: tuple[Array, ...], size: int) -> list[tuple[Array, ...]]:
    """Inputs come as all X, then all G, then all of each state; one tuple per X."""
    count = len(arrays) // size
    return [tuple(jnp.asarray(arrays[k + part * count]) for part in range(size)) for k in range(count)]


def _columns(rows: list[tuple[Array, ...]], arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    dtype = arrays[0].dtype
    return tuple(row[part].astype(dtype) for part in range(len(rows[0])) for row in rows)


@lowers("Adagrad", domain=_TRAINING)
def adagrad(ctx: LoweringContext, rate: Array, step: Array, *arrays: Any) -> tuple[Array, ...]:
    """X and H after one step. Source: ONNX Adagrad-1."""
    rate = jnp.asarray(rate) / (1 + jnp.asarray(step) * ctx.attr("decay_factor"))
    rows = []
    for x, gradient, squares in _groups(arrays, 3):
        regular = ctx.attr("norm_coefficient") * x + gradient
        total = squares + regular * regular
        rows.append((x - rate * regular / (jnp.sqrt(total) + ctx.attr("epsilon")), total))
    return _columns(rows, arrays)


@lowers("Adam", domain=_TRAINING)
def adam(ctx: LoweringContext, rate: Array, step: Array, *arrays: Any) -> tuple[Array, ...]:
    """X, V and H after one step. Source: ONNX Adam-1."""
    alpha, beta = ctx.attr("alpha"), ctx.attr("beta")
    step = jnp.asarray(step)
    time = step.astype(np.float64)
    adjusted = jnp.where(step > 0, rate * jnp.sqrt(1 - beta**time) / (1 - jnp.where(step > 0, alpha**time, 0)), rate)
    rows = []
    for x, gradient, old_mean, old_squares in _groups(arrays, 4):
        regular = ctx.attr("norm_coefficient") * x + gradient
        mean = alpha * old_mean + (1 - alpha) * regular
        squares = beta * old_squares + (1 - beta) * regular * regular
        moved = x - adjusted * mean / (jnp.sqrt(squares) + ctx.attr("epsilon"))
        rows.append(((1 - ctx.attr("norm_coefficient_post")) * moved, mean, squares))
    return _columns(rows, arrays)


@lowers("Momentum", domain=_TRAINING)
def momentum(ctx: LoweringContext, rate: Array, step: Array, *arrays: Any) -> tuple[Array, ...]:
    """X and V after one step, plain or Nesterov's. Source: ONNX Momentum-1."""
    alpha = ctx.attr("alpha")
    beta = jnp.where(jnp.asarray(step) > 0, ctx.attr("beta"), 1)
    rows = []
    for x, gradient, speed in _groups(arrays, 3):
        regular = ctx.attr("norm_coefficient") * x + gradient
        moved = alpha * speed + beta * regular
        rows.append((x - rate * (regular + alpha * moved if ctx.attr("mode") == "nesterov" else moved), moved))
    return _columns(rows, arrays)
