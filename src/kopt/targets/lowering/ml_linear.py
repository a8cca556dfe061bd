"""Linear models and support vector machines of ai.onnx.ml, with integer labels."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.lowering.ml import ML
from kopt.targets.lowering.ml_score import labels_of, rows_of, transformed, two_classes
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _floats(ctx: LoweringContext, name: str) -> np.ndarray:
    return np.asarray(ctx.attr(name) or (), np.float32)


def _rows(x: Array) -> Array:
    """Features as rows of f32."""
    return rows_of(x).astype(np.float32)


def _linear(ctx: LoweringContext, x: Array, count: int) -> Array:
    """(rows, features) ==> (rows, count): a product with the coefficients, plus the intercepts."""
    y = jnp.matmul(x, _floats(ctx, "coefficients").reshape(count, -1).T)
    intercepts = _floats(ctx, "intercepts")
    return y if not intercepts.size else y + intercepts


@lowers("LinearRegressor", domain=ML)
def linear_regressor(ctx: LoweringContext, x: Array) -> Array:
    """One value per target."""
    return transformed(ctx, _linear(ctx, _rows(x), int(ctx.attr("targets", 1))), str(ctx.attr("post_transform", "NONE")))


@lowers("LinearClassifier", domain=ML)
def linear_classifier(ctx: LoweringContext, x: Array) -> tuple[Array, ...]:
    """The label of the highest score, and the scores; one set of coefficients tells two classes apart."""
    labels, name = labels_of(ctx, "classlabels_ints"), str(ctx.attr("post_transform", "NONE"))
    count = max(1, len(_floats(ctx, "intercepts")))
    raw = _linear(ctx, _rows(x), count)
    if count == 1:
        if len(labels) != 2:
            raise ctx.unsupported(f"one set of coefficients for {len(labels)} labels")
        return jnp.where(raw[:, 0] > 0, labels[1], labels[0]), two_classes(transformed(ctx, raw, name), name, positive=True)
    return jnp.asarray(labels)[jnp.argmax(raw, -1)], transformed(ctx, raw, name)


def _kernel(ctx: LoweringContext, x: Array, vectors: np.ndarray) -> Array:
    """What each support vector says of each row.  x: (rows, features), vectors: (count, features)."""
    name = str(ctx.attr("kernel_type", "LINEAR"))
    gamma, offset, degree = (float(item) for item in (ctx.attr("kernel_params") or (0.0, 0.0, 0.0)))
    if name == "RBF":
        squares = jnp.sum(jnp.square(x[:, None] - vectors), -1)
        return jnp.exp(np.float32(-gamma) * squares)
    product = jnp.matmul(x, vectors.T)
    if name == "LINEAR":
        return product
    product = np.float32(gamma) * product + np.float32(offset)
    if name == "POLY":
        return lax.integer_pow(product, int(degree)) if degree == int(degree) else product ** np.float32(degree)
    if name == "SIGMOID":
        return jnp.tanh(product)
    raise ctx.unsupported(f"there is no kernel '{name}'")


@lowers("SVMRegressor", domain=ML)
def svm_regressor(ctx: LoweringContext, x: Array) -> Array:
    """One value per row; of a one-class machine 1 or -1."""
    x, count = _rows(x), int(ctx.attr("n_supports", 0))
    held = _kernel(ctx, x, _floats(ctx, "support_vectors").reshape(count, -1)) if count else x
    y = jnp.matmul(held, _floats(ctx, "coefficients").reshape(-1, 1)) + _floats(ctx, "rho")[0]
    if ctx.attr("one_class", 0):
        return jnp.where(y > 0, np.float32(1), np.float32(-1))
    return transformed(ctx, y, str(ctx.attr("post_transform", "NONE")))


@lowers("SVMClassifier", domain=ML)
def svm_classifier(ctx: LoweringContext, x: Array) -> tuple[Array, ...]:
    """The label with the most votes of all pairs of classes, and a score per pair, or a probability per class."""
    labels, name = labels_of(ctx, "classlabels_ints"), str(ctx.attr("post_transform", "NONE"))
    x, sizes, rho = _rows(x), [int(size) for size in ctx.attr("vectors_per_class") or ()], _floats(ctx, "rho")
    if not sum(sizes):
        scores = jnp.matmul(x, _floats(ctx, "coefficients").reshape(len(labels), -1).T) + rho[0]
        return jnp.asarray(labels)[jnp.argmax(scores, -1)], transformed(ctx, scores, name)
    held = _kernel(ctx, x, _floats(ctx, "support_vectors").reshape(sum(sizes), -1))
    factors = _floats(ctx, "coefficients").reshape(-1, sum(sizes))
    starts = np.cumsum([0, *sizes])
    pairs = list(combinations(range(len(sizes)), 2))
    weights = np.zeros((sum(sizes), len(pairs)), np.float32)
    for place, (i, j) in enumerate(pairs):  # a vector of class i votes by row j - 1, one of class j by row i
        weights[starts[i] : starts[i + 1], place] = factors[j - 1, starts[i] : starts[i + 1]]
        weights[starts[j] : starts[j + 1], place] = factors[i, starts[j] : starts[j + 1]]
    scores = jnp.matmul(held, weights) + rho[: len(pairs)]
    first, second = (np.eye(len(sizes), dtype=np.int32)[list(side)] for side in zip(*pairs, strict=True))
    votes = jnp.sum(jnp.where(scores[:, :, None] > 0, first, second), 1)
    chosen = jnp.asarray(labels)[jnp.argmax(votes, -1)]
    if ctx.attr("prob_a"):
        scores = _probabilities(ctx, scores, pairs, len(sizes))
    elif len(pairs) == 1:
        both = jnp.concatenate([-scores, scores], -1)
        return chosen, transformed(ctx, both, name)
    return chosen, transformed(ctx, scores, name)


def _probabilities(ctx: LoweringContext, scores: Array, pairs: list[tuple[int, int]], count: int) -> Array:
    """Probabilities of classes that fit those of pairs best. Source: Wu, Lin, Weng 2004, algorithm 2."""
    share = jnp.clip(1 - jax.nn.sigmoid(scores * _floats(ctx, "prob_a") + _floats(ctx, "prob_b")), 1e-7, 1 - 1e-7)
    i, j = (np.asarray(side) for side in zip(*pairs, strict=True))
    wins = jnp.zeros((scores.shape[0], count, count), np.float32).at[:, i, j].set(share).at[:, j, i].set(1 - share)
    eye = np.eye(count, dtype=np.float32)
    squares = -jnp.swapaxes(wins, 1, 2) * wins * (1 - eye) + jnp.sum(wins * wins, 1)[:, None] * eye

    def coupled(q: Array) -> Array:
        def error(state: tuple[Any, Array]) -> Array:
            product = q @ state[1]
            return (state[0] < max(100, count)) & (jnp.max(jnp.abs(product - state[1] @ product)) >= 0.005 / count)

        def step(state: tuple[Any, Array]) -> tuple[Any, Array]:
            def one(t: Any, p: Array) -> Array:
                product = q @ p
                change = (p @ product - product[t]) / q[t, t]
                return p.at[t].add(change) / (1 + change)

            return state[0] + 1, lax.fori_loop(0, count, one, state[1])

        return lax.while_loop(error, step, (0, jnp.full(count, 1 / count, np.float32)))[1]

    return jax.vmap(coupled)(squares)
