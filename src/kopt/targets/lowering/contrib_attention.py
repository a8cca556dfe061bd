"""Attention as ONNX Runtime fuses it. Source: onnxruntime/docs/ContribOperators.md.

Heads are laid out (batch, heads, seq, head_dim). Scores, masks and weights are f32 for 16-bit inputs.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import MICROSOFT
from kopt.targets.lowering.attention import heads_of
from kopt.targets.lowering.contrib_quant import matmul_to_float
from kopt.targets.lowering.matmul import dot
from kopt.targets.lowering.registry import Array, LoweringContext, lowers

MASKED = np.float32(np.finfo(np.float32).min)
"""Added to the scores of keys that lie ahead."""


def _wide(x: Array) -> Array:
    x = jnp.asarray(x)
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


def attend(
    q: Array, k: Array, v: Array, *, scale: float | None, added: Array | None, softcap: float = 0, sink: Array | None = None
) -> tuple[Array, Array, Array]:
    """Attention's result, its scores after masking, and its weights.

    Args:
        q: (batch, heads, seq, head_dim).
        k: (batch, kv_heads, total, head_dim).
        v: (batch, kv_heads, total, v_head_dim).
        scale: of the products; 1 / sqrt(head_dim) by default.
        added: to the scores, broadcast to (batch, heads, seq, total).
        softcap: bounds scores by tanh; 0 for no bound.
        sink: one more score per head, which takes weight and gives no value; broadcast to (batch, heads, seq, 1).
    """
    if q.shape[1] != k.shape[1]:
        k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], 1) for x in (k, v))
    wide = _wide(q)
    scores = jnp.matmul(wide, jnp.swapaxes(_wide(k), -1, -2)) * np.asarray(scale or 1 / np.sqrt(q.shape[-1]), wide.dtype)
    if softcap:
        scores = jnp.tanh(scores / softcap) * np.asarray(softcap, scores.dtype)
    scores = scores if added is None else scores + added
    peak = jnp.max(scores, -1, keepdims=True)
    peak = peak if sink is None else jnp.maximum(peak, sink)
    powers = jnp.exp(scores - peak)
    total = jnp.sum(powers, -1, keepdims=True)
    weights = powers / (total if sink is None else total + jnp.exp(sink - peak))
    return jnp.matmul(weights, _wide(v)).astype(q.dtype), scores, weights


def _flat(x: Array) -> Array:
    """(batch, heads, seq, head_dim) ==> (batch, seq, heads * head_dim)."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def _sum(*parts: Array | None) -> Array | None:
    held = [_wide(part) for part in parts if part is not None]
    return sum(held[1:], held[0]) if held else None


def _padding(ctx: LoweringContext, mask: Array | None, batch: int, rows: int, total: int) -> Array | None:
    """What a mask of 0 and 1, or the ends and starts of the sequences, adds to the scores."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.ndim == 1 and mask.shape[0] not in (batch, 2 * batch):
        raise ctx.unsupported("a mask of cumulated lengths")
    if mask.ndim == 1:
        column = jnp.arange(total)
        seen = column < mask[:batch, None]
        if mask.shape[0] == 2 * batch:
            seen = seen & (column >= mask[batch:, None])
        seen = seen[:, None, None, :]
    elif mask.ndim == 2:
        seen = (mask > 0)[:, None, None, :]
    elif mask.ndim == 3:
        seen = (mask > 0)[:, None]
    else:
        seen = mask[:, :, total - rows : total, :total] > 0
    return jnp.where(seen, np.float32(0), np.float32(ctx.attr("mask_filter_value", -10000.0)))


def _causal(ctx: LoweringContext, rows: int, total: int) -> Array | None:
    if not ctx.attr("unidirectional", 0):
        return None
    return np.where(np.arange(total) > np.arange(rows)[:, None] + (total - rows), MASKED, np.float32(0))


def _merged(ctx: LoweringContext, qkv: Array, mask: Array | None, past: Array | None, bias: Array | None) -> tuple[Array, ...]:
    """Self-attention on projections that lie side by side, with the present keys and values."""
    if ctx.attr("do_rotary", 0) or ctx.attr("past_present_share_buffer", 0):
        raise ctx.unsupported("do_rotary and past_present_share_buffer have no lowering")
    sizes = ctx.attr("qkv_hidden_sizes") or (qkv.shape[-1] // 3,) * 3
    count = int(ctx.attr("num_heads"))
    q, k, v = (heads_of(x, count) for x in jnp.split(qkv, [sizes[0], sizes[0] + sizes[1]], -1))
    if past is not None:
        k, v = (jnp.concatenate([jnp.asarray(old), new], 2) for old, new in zip(past, (k, v), strict=True))
    batch, _, rows, _ = q.shape
    total = k.shape[2]
    added = _sum(_padding(ctx, mask, batch, rows, total), _causal(ctx, rows, total), bias)
    y, _, _ = attend(q, k, v, scale=ctx.attr("scale"), added=added)
    return (_flat(y), jnp.stack([k, v]))[: ctx.num_outputs] if ctx.wants(1) else (_flat(y),)


@lowers("Attention", domain=MICROSOFT)
def attention(
    ctx: LoweringContext,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    past: Array | None = None,
    score_bias: Array | None = None,
    past_length: Array | None = None,
) -> tuple[Array, ...]:
    """Self-attention with its projections.  x: (batch, seq, width), weight: (width, 2 * hidden + v_hidden)."""
    del past_length
    qkv = dot(x, weight)
    return _merged(ctx, qkv if bias is None else qkv + jnp.asarray(bias), mask, past, score_bias)


@lowers("QAttention", domain=MICROSOFT)
def quantized_attention(
    ctx: LoweringContext,
    x: Array,
    w: Array,
    bias: Any,
    sx: Array,
    sw: Array,
    mask: Any = None,
    zx: Any = None,
    zw: Any = None,
    past: Any = None,
) -> tuple[Array, ...]:
    """Self-attention whose projections are a product of integers."""
    return _merged(ctx, matmul_to_float(ctx, x, w, sx, sw, zx, zw, bias), mask, past, None)


def _projected(x: Array, bias: Array | None, count: int) -> Array:
    return heads_of(jnp.asarray(x) if bias is None else jnp.asarray(x) + bias, count)


@lowers("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    ctx: LoweringContext,
    q: Array,
    k: Any = None,
    v: Any = None,
    bias: Any = None,
    mask: Any = None,
    score_bias: Any = None,
    past_key: Any = None,
    past_value: Any = None,
    *buffers: Any,
) -> tuple[Array, ...]:
    """Attention on separate, key-value-packed or all packed projections, with keys and values from before."""
    if any(buffer is not None for buffer in buffers):
        raise ctx.unsupported("shared buffers of past and present have no lowering")
    count = int(ctx.attr("num_heads"))
    if q.ndim == 5:  # (batch, seq, heads, 3, head_dim)
        q, k, v = (jnp.asarray(q)[:, :, :, part].reshape(*q.shape[:2], -1) for part in range(3))
    elif k is not None and k.ndim == 5:
        k, v = (jnp.asarray(k)[:, :, :, part].reshape(*k.shape[:2], -1) for part in range(2))
    hidden = q.shape[-1]
    parts: list[Any] = [None, None, None]
    if bias is not None:
        parts = [jnp.asarray(bias)[:hidden], jnp.asarray(bias)[hidden : 2 * hidden], jnp.asarray(bias)[2 * hidden :]]
    q = _projected(q, parts[0], count)
    if k.ndim == 3:
        k, v = _projected(k, parts[1], count), _projected(v, parts[2], count)
    if past_key is not None:
        k, v = jnp.concatenate([jnp.asarray(past_key), jnp.asarray(k)], 2), jnp.concatenate([jnp.asarray(past_value), jnp.asarray(v)], 2)
    rows, total = q.shape[2], k.shape[2]
    added = _sum(_padding(ctx, mask, q.shape[0], rows, total), _causal(ctx, rows, total), score_bias)
    y, scores, _ = attend(q, k, v, scale=ctx.attr("scale"), added=added)
    return (_flat(y), k, v, scores)[: ctx.num_outputs]
