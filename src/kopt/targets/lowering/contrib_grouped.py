"""ONNX Runtime's attention with grouped heads over a cache, and its rotary embedding.

Source: onnxruntime/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import MICROSOFT
from kopt.targets.lowering.attention import heads_of, rotated
from kopt.targets.lowering.contrib_attention import MASKED, attend
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@lowers("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(ctx: LoweringContext, x: Array, positions: Array, cosine: Array, sine: Array) -> Array:
    """Pairs of channels turned by position.  x: (batch, seq, heads * head_dim) or (batch, heads, seq, head_dim)."""
    if ctx.attr("is_packed_batching", 0):
        raise ctx.unsupported("packed batches have no lowering")
    x, pairs = jnp.asarray(x), cosine.shape[-1]
    if x.ndim == 4:
        held = x.transpose(0, 2, 1, 3)
    else:
        count = int(ctx.attr("num_heads", 0)) if ctx.attr("rotary_embedding_dim", 0) else 0
        held = x.reshape(*x.shape[:2], *((count, -1) if count else (-1, 2 * pairs)))
    positions = jnp.asarray(positions)
    if positions.size == 1 and held.shape[1] != 1:
        positions = positions.reshape(1, 1) + jnp.arange(held.shape[1])
    y = _turned(ctx, held, positions.reshape(-1, held.shape[1]), cosine, sine, "interleaved")
    y = y if ctx.attr("scale", 1.0) == 1 else (y * np.asarray(ctx.attr("scale"), y.dtype)).astype(y.dtype)
    return y.transpose(0, 2, 1, 3) if x.ndim == 4 else y.reshape(x.shape)


def _turned(ctx: LoweringContext, x: Array, positions: Array, cosine: Array, sine: Array, interleaved: str) -> Array:
    """X (batch, seq, heads, head_dim) turned; positions outside the tables are clipped."""
    rows = (jnp.take(jnp.asarray(table), positions, 0, mode="clip") for table in (cosine, sine))
    return rotated(x, *rows, interleaved=bool(ctx.attr(interleaved, 0)))


_PLAIN = {"k_quant_type": "NONE", "v_quant_type": "NONE", "sliding_window_cache": 0}
"""Attributes whose other values have no lowering."""


@lowers("GroupQueryAttention", domain=MICROSOFT, static=(6,))
def group_query_attention(
    ctx: LoweringContext,
    q: Array,
    k: Any,
    v: Any,
    past_key: Any,
    past_value: Any,
    lengths: Array,
    longest: np.ndarray,
    cosine: Any = None,
    sine: Any = None,
    positions: Any = None,
    *rest: Any,
) -> tuple[Array, ...]:
    """Attention over a cache whose sequences may end at different places.

    q is (batch, seq, heads * head_dim), or queries, keys and values side by side; k and v are (batch, seq, kv_heads * head_dim)
    or None. The caches are (batch, kv_heads, capacity, head_dim) or None. ``lengths`` are the tokens in the cache after this
    step, less one, and ``longest`` is their largest, not less one. ``cosine`` and ``sine`` are (positions, pairs) tables, and
    ``positions`` (batch, seq) those of the new tokens; by default they follow those in the cache. ``rest`` is a bias of scores,
    (heads,) scores that take weight and give no value, scales of quantized caches, norms of heads (neither has a lowering),
    and how many tokens are new.
    """
    bias, sink, *others = (*rest, None, None)[: max(2, len(rest))]
    _refuse_unknown(ctx, others)
    heads, groups = int(ctx.attr("num_heads")), int(ctx.attr("kv_num_heads"))
    q, k, v = _projections(q, k, v, heads, groups)
    rows, total = q.shape[2], int(longest.reshape(()))
    held = jnp.asarray(lengths).reshape(-1).astype(np.int32) + 1
    start, fresh = _extents(held, others[4] if len(others) > 4 else None, rows, total)
    place = start[:, None] + jnp.arange(rows)  # (batch, seq)
    if ctx.attr("do_rotary", 0):
        turns = place if positions is None else jnp.asarray(positions).reshape(-1, rows)
        q, k = (_by_seq(_turned(ctx, _by_seq(x), turns, cosine, sine, "rotary_interleaved")) for x in (q, k))
    capacity = max(total, 0 if past_key is None else past_key.shape[2])
    k, v = (_appended(past, new, start, fresh, capacity) for past, new in ((past_key, k), (past_value, v)))
    y, scores, weights = attend(
        q,
        k[:, :, :total],
        v[:, :, :total],
        scale=ctx.attr("scale"),
        added=_added(ctx, place, held, total, bias),
        softcap=float(ctx.attr("softcap", 0.0)),
        sink=_sink(ctx, sink),
    )
    shown = (scores if ctx.attr("qk_output", 0) == 1 else weights).astype(q.dtype)
    return (_by_seq(y).reshape(q.shape[0], rows, -1), k, v, shown)[: ctx.num_outputs]


def _refuse_unknown(ctx: LoweringContext, rest: Sequence[Any]) -> None:
    unknown = [name for name, plain in _PLAIN.items() if ctx.attr(name, plain) != plain]
    if unknown or any(item is not None for item in rest[:4]):
        raise ctx.unsupported(f"{', '.join(unknown) or 'quantized caches and norms of heads'}: no lowering")


def _extents(held: Array, counts: Any, rows: int, total: int) -> tuple[Array, Array]:
    """Tokens in the cache before this step, and how many of the rows are new tokens: (batch,) each."""
    if counts is not None:
        fresh = jnp.asarray(counts).reshape(-1).astype(np.int32)
        return held - fresh, fresh
    fresh = jnp.minimum(rows, held)
    return (jnp.zeros_like(held) if rows == total else held - fresh), fresh


def _by_seq(x: Array) -> Array:
    """Swaps the axes of heads and sequence."""
    return x.transpose(0, 2, 1, 3)


def _projections(q: Array, k: Any, v: Any, heads: int, groups: int) -> tuple[Array, Array, Array]:
    """(batch, heads, seq, head_dim) each."""
    q = jnp.asarray(q)
    if k is None:
        size = q.shape[-1] // (heads + 2 * groups)
        q, k, v = jnp.split(q, [heads * size, (heads + groups) * size], -1)
    return heads_of(q, heads), heads_of(jnp.asarray(k), groups), heads_of(jnp.asarray(v), groups)


def _appended(past: Any, new: Array, start: Array, fresh: Array, capacity: int) -> Array:
    """The cache with the new rows put behind what each sequence holds.  past: (batch, groups, length, head_dim)."""
    if past is None:
        return jnp.pad(new, [(0, 0), (0, 0), (0, capacity - new.shape[2]), (0, 0)])
    old = jnp.pad(jnp.asarray(past), [(0, 0), (0, 0), (0, capacity - past.shape[2]), (0, 0)])
    offset = jnp.arange(capacity) - start[:, None]  # (batch, capacity): which new row belongs here
    inside = (offset >= 0) & (offset < fresh[:, None])
    if new.shape[2] != 1:
        new = jnp.take_along_axis(new, jnp.clip(offset, 0, new.shape[2] - 1)[:, None, :, None], 2)
    return jnp.where(inside[:, None, :, None], new, old)


def _added(ctx: LoweringContext, place: Array, held: Array, total: int, bias: Any) -> Array:
    """What causality, the window, the ends of sequences and a bias add to the scores: (batch, 1 or heads, seq, total)."""
    column = jnp.arange(total)
    seen = column < held[:, None, None]
    if ctx.attr("causal", 1):
        seen = seen & (column <= place[:, :, None])
    window = int(ctx.attr("local_window_size", -1))
    if window >= 0:
        seen = seen & (column > place[:, :, None] - window)
    added = jnp.where(seen, np.float32(0), MASKED)[:, None]
    return added if bias is None else added + jnp.asarray(bias)[..., :total].astype(np.float32)


def _sink(ctx: LoweringContext, sink: Any) -> Array | None:
    """Scores per head that take weight: those given, or 0 for smooth softmax."""
    if sink is not None:
        return jnp.asarray(sink).astype(np.float32).reshape(-1, 1, 1)
    return jnp.zeros((1, 1, 1), np.float32) if ctx.attr("smooth_softmax", -1) == 1 else None
