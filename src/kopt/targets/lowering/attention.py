"""Attention and rotary embeddings."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.ir.types import DType
from kopt.targets.lowering.activation import softmax
from kopt.targets.lowering.kernel_calls import attended, takes_kernel
from kopt.targets.lowering.registry import Array, LoweringContext, lowers
from kopt.targets.lowering.rounding import is_narrow, narrowed


def heads_of(x: Array, count: int) -> Array:
    """(batch, seq, heads * head_dim) ==> (batch, heads, seq, head_dim)."""
    batch, seq, width = x.shape
    return x.reshape(batch, seq, count, width // count).transpose(0, 2, 1, 3)


def _exact(x: Array) -> Array:
    """Steps on 16-bit floats are rounded to them, as those of the function body in the standard are."""
    return narrowed(x) if is_narrow(x) else x


def _scores_dot(a: Array, b: Array) -> Array:
    low = a.dtype.itemsize == 2
    return jnp.matmul(a, b, preferred_element_type=np.float32 if low else None)


@lowers("Attention")
def attention(
    ctx: LoweringContext,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    lengths: Array | None = None,
) -> Any:
    """softmax(q k^T * scale + mask) v, with caches, grouped heads, soft cap and causal mask. Source: ONNX Attention-25."""
    flat = q.ndim == 3
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise ValueError("the batches of queries, keys and values differ")
    if flat:
        q, k, v = heads_of(q, ctx.attr("q_num_heads")), heads_of(k, ctx.attr("kv_num_heads")), heads_of(v, ctx.attr("kv_num_heads"))
    past = 0 if past_key is None else past_key.shape[2]
    if past_key is not None and past_value is not None:
        k, v = jnp.concatenate([past_key, k], 2), jnp.concatenate([past_value, v], 2)
    present = (k, v)
    if takes_kernel(ctx, q):
        y = attended(ctx, q, k, v, _mask(ctx, q, k, mask, lengths, past))
        if y is not None:
            return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1) if flat else y
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = jnp.repeat(k, repeat, 1), jnp.repeat(v, repeat, 1)
    given = ctx.attr("scale")
    scale = 1 / np.sqrt(q.shape[-1]) if given is None else given
    root = np.sqrt(abs(scale)).astype(q.dtype)
    scores = _exact(_scores_dot(_exact(q * (-root if scale < 0 else root)), jnp.swapaxes(_exact(k * root), -1, -2)).astype(q.dtype))
    raw = scores
    bias = _mask(ctx, q, k, mask, lengths, past)
    mode = ctx.attr("qk_matmul_output_mode", 0)
    cap = ctx.attr("softcap", 0.0)
    if cap:
        scores = _exact(jnp.tanh(scores / cap) * cap)
    capped = scores
    masked = scores = scores if bias is None else _exact(scores + bias.astype(scores.dtype))
    weights = _softmax(ctx, scores, bias)
    y = _scores_dot(weights, v).astype(q.dtype)
    if flat:
        y = y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)
    shown = {0: raw, 1: capped, 2: masked, 3: weights}[mode]
    return (y, *present, shown)[: max(1, ctx.num_outputs)]


def _softmax(ctx: LoweringContext, scores: Array, bias: Array | None) -> Array:
    precision = ctx.attr("softmax_precision")
    wide = scores.astype({1: np.float32, 11: np.float64}.get(precision, scores.dtype)) if precision else scores
    weights = softmax(wide, -1)
    # a row that sees nothing attends to nothing, whatever its products are: inf - inf is NaN
    dead = jnp.all(jnp.isneginf(scores), -1, keepdims=True)
    if bias is not None:
        dead |= jnp.all(jnp.isneginf(bias), -1, keepdims=True)
    return _exact(jnp.where(dead, jnp.zeros_like(weights), weights).astype(scores.dtype))


def _mask(ctx: LoweringContext, q: Array, k: Array, mask: Array | None, lengths: Array | None, past: int) -> Array | None:
    """Everything added to the scores: the given mask, causality and lengths of padded caches."""
    total, rows = k.shape[2], q.shape[2]
    low = jnp.asarray(-np.inf, q.dtype)
    bias = None
    if mask is not None:
        mask = jnp.asarray(mask)
        bias = jnp.where(mask, jnp.zeros((), q.dtype), low) if mask.dtype == np.bool_ else mask
        short = total - bias.shape[-1]
        if short > 0:
            bias = jnp.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(0, short)], constant_values=-np.inf)
    column = jnp.arange(total)
    if lengths is not None:
        held = jnp.asarray(lengths).reshape(-1, 1, 1, 1)
        padded = jnp.where(column < held, jnp.zeros((), q.dtype), low)
        bias = padded if bias is None else bias + padded
    start = past if lengths is None else jnp.asarray(lengths).reshape(-1, 1, 1, 1) - rows
    ahead = column - (jnp.arange(rows)[:, None] + start)  # how far a key lies beyond its query
    left, right = ctx.attr("left_window_size", -1), ctx.attr("right_window_size", -1)
    limits = [ahead <= 0] if ctx.attr("is_causal", 0) else []
    limits += [ahead >= -left] if left >= 0 else []
    limits += [ahead <= right] if right >= 0 else []
    for seen in limits:
        unseen = jnp.where(seen, jnp.zeros((), q.dtype), low)
        bias = unseen if bias is None else bias + unseen
    return bias


@lowers("RotaryEmbedding")
def rotary_embedding(ctx: LoweringContext, x: Array, cosine: Array, sine: Array, positions: Array | None = None) -> Array:
    """Pairs of channels rotated by position. Source: ONNX RotaryEmbedding-23."""
    x = jnp.asarray(x)
    shape, flat = x.shape, x.ndim == 3
    if flat:
        x = x.reshape(shape[0], shape[1], ctx.attr("num_heads"), -1)
    else:
        x = x.transpose(0, 2, 1, 3)  # (batch, seq, heads, head_dim)
    width = ctx.attr("rotary_embedding_dim") or x.shape[-1]
    cosine, sine = jnp.asarray(cosine), jnp.asarray(sine)
    if positions is not None:
        cosine, sine = cosine[positions], sine[positions]
    y = rotated(x, cosine[..., : width // 2], sine[..., : width // 2], interleaved=bool(ctx.attr("interleaved")))
    return y.reshape(shape) if flat else y.transpose(0, 2, 1, 3)


def rotated(x: Array, cosine: Array, sine: Array, *, interleaved: bool) -> Array:
    """Pairs of the leading channels turned; the channels beyond them stay.

    Args:
        x: (batch, seq, heads, head_dim).
        cosine: (batch or 1, seq, pairs).
        sine: like ``cosine``.
        interleaved: whether a pair is two neighbours, rather than two channels that lie ``pairs`` apart.
    """
    width = 2 * cosine.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    cosine, sine = cosine[..., None, :], sine[..., None, :]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = jnp.stack([cosine * a - sine * b, sine * a + cosine * b], -1).reshape(turned.shape)
    else:
        a, b = jnp.split(turned, 2, -1)
        turned = jnp.concatenate([cosine * a - sine * b, sine * a + cosine * b], -1)
    return jnp.concatenate([turned.astype(x.dtype), rest], -1)


@lowers("FlexAttention", domain="ai.onnx.preview")
def flex_attention(ctx: LoweringContext, q: Array, k: Array, v: Array) -> Array:
    """Attention whose scores and weights pass through bodies of the model.  q: (B, heads, T, d). Source: ONNX FlexAttention-1."""
    kind = np.dtype(np.float64 if q.dtype == np.float64 else np.float32)
    if ctx.attr("softmax_precision"):
        kind = DType.from_onnx(ctx.attr("softmax_precision")).numpy
    repeat = q.shape[1] // k.shape[1]
    k, v = (jnp.repeat(jnp.asarray(x), repeat, 1) if repeat > 1 else jnp.asarray(x) for x in (k, v))
    scale = ctx.attr("scale")
    scores = _scores_dot(q, jnp.swapaxes(k, -1, -2)).astype(kind) * np.asarray(1 / np.sqrt(q.shape[-1]) if scale is None else scale, kind)
    weights = softmax(_modified(ctx, "score_mod", scores), -1)
    return _scores_dot(_modified(ctx, "prob_mod", weights).astype(q.dtype), v).astype(q.dtype)


def _modified(ctx: LoweringContext, name: str, x: Array) -> Array:
    """What the body of that name makes of ``x``, or ``x`` itself."""
    body = ctx.attr(name)
    if body is None:
        return x
    (result,) = ctx.evaluate(body, (x,), {value: ctx.captures[value] for value in body.captures})
    return result
