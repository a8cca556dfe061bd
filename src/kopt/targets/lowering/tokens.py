"""Counting n-grams of integer tokens; those of strings are counted on the host."""

from __future__ import annotations

from itertools import pairwise

import jax.numpy as jnp
import numpy as np

from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@lowers("TfIdfVectorizer")
def tf_idf_vectorizer(ctx: LoweringContext, x: Array) -> Array:
    """How often each n-gram of the pool occurs, with gaps up to ``max_skip_count``; x is [C] or [N, C]."""
    pool, weights = np.asarray(ctx.attr("pool_int64s") or (), np.int64), ctx.attr("weights")
    places = np.asarray(ctx.attr("ngram_indexes"), np.int64)
    width = int(places.max(initial=-1)) + 1
    x = jnp.asarray(x).astype(np.int64)
    rows = x.reshape(-1, x.shape[-1])
    counts, first = jnp.zeros((rows.shape[0], width), np.float32), 0
    for length, (start, end) in enumerate(pairwise([*ctx.attr("ngram_counts"), pool.size]), start=1):
        grams = pool[start:end].reshape(-1, length)
        held, first = places[first : first + len(grams)], first + len(grams)
        if int(ctx.attr("min_gram_length")) <= length <= int(ctx.attr("max_gram_length")) and len(grams):
            gaps = 1 if length == 1 else int(ctx.attr("max_skip_count")) + 1
            counts = counts.at[:, held].add(sum(_occurrences(rows, grams, gap) for gap in range(1, gaps + 1)))
    factor = np.ones(width, np.float32)
    if weights is not None and len(weights):
        factor[places] = np.asarray(weights, np.float32)
    mode = ctx.attr("mode")
    result = counts if mode == "TF" else jnp.where(counts > 0, factor, np.float32(0)) if mode == "IDF" else counts * factor
    return result.reshape(*x.shape[:-1], width)


def _occurrences(rows: Array, grams: np.ndarray, gap: int) -> Array:
    """How often each gram occurs in each row with ``gap`` from token to token, f32 (row, gram)."""
    reach = gap * (grams.shape[1] - 1)
    count = max(rows.shape[1] - reach, 0)
    same = jnp.ones((rows.shape[0], count, len(grams)), np.bool_)
    for k in range(grams.shape[1]):
        same &= rows[:, k * gap : k * gap + count, None] == grams[None, None, :, k]
    return same.sum(axis=1).astype(np.float32)
