"""Operators that carry a state from call to call: causal convolution and linear attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _wide(x: Array) -> Array:
    x = jnp.asarray(x)
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


@lowers("CausalConvWithState")
def causal_conv_with_state(ctx: LoweringContext, x: Array, weight: Array, bias: Any = None, past: Any = None) -> tuple[Array, Array]:
    """Each channel convolved with what came before.  x: (B, C, T), weight: (C, 1, k), past: (B, C, k - 1).

    Source: ONNX CausalConvWithState-27.
    """
    size, steps, dtype = weight.shape[2], x.shape[2], x.dtype
    start = jnp.zeros((*x.shape[:2], size - 1), dtype) if past is None else jnp.asarray(past)
    joined = jnp.concatenate([start, jnp.asarray(x)], 2)
    wide, kernel = _wide(joined), _wide(weight)[:, 0]
    y = sum((wide[:, :, k : k + steps] * kernel[:, k, None] for k in range(size)), jnp.zeros(x.shape, wide.dtype))
    if bias is not None:
        y = y + _wide(bias)[:, None]
    if ctx.attr("activation", "none") in ("silu", "swish"):
        y = jax.nn.silu(y)
    return y.astype(dtype), joined[:, :, joined.shape[2] - (size - 1) :]


def _split(x: Array, heads: int) -> Array:
    """(B, T, H * d) ==> (T, B, H, d)."""
    wide = _wide(x)
    return wide.reshape(*x.shape[:2], heads, -1).swapaxes(0, 1)


@lowers("LinearAttention")
def linear_attention(
    ctx: LoweringContext, q: Array, k: Array, v: Array, past: Any = None, decay: Any = None, beta: Any = None
) -> tuple[Array, Array]:
    """The recurrence over a matrix of keys and values, step by step. Source: ONNX LinearAttention-27."""
    rule = str(ctx.attr("update_rule"))
    heads, groups = int(ctx.attr("kv_num_heads")), int(ctx.attr("q_num_heads")) // int(ctx.attr("kv_num_heads"))
    dtype = q.dtype
    queries, keys, values = _split(q, heads * groups), _split(k, heads), _split(v, heads)
    queries = queries.reshape(*queries.shape[:2], heads, groups, -1)
    scale = ctx.attr("scale") or 1 / np.sqrt(queries.shape[-1])
    rates = jnp.ones((len(keys), 1, 1, 1), keys.dtype) if beta is None or "delta" not in rule else _split(beta, beta.shape[2])
    fade = jnp.ones((len(keys), 1, 1, 1), keys.dtype) if decay is None or "gated" not in rule else jnp.exp(_split(decay, heads))

    def step(state: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        query, key, value, rate, kept = row
        state = state * kept[..., None]
        if "delta" in rule:
            value = rate * (value - jnp.einsum("bhk,bhkv->bhv", key, state))
        state = state + key[..., None] * value[:, :, None]
        return state, jnp.einsum("bhgk,bhkv->bhgv", query, state) * np.asarray(scale, state.dtype)

    shape = (q.shape[0], heads, keys.shape[-1], values.shape[-1])
    start = jnp.zeros(shape, keys.dtype) if past is None else _wide(past)
    state, rows = lax.scan(step, start, (queries, keys, values, rates, fade))
    kind = dtype if past is None else past.dtype
    return rows.swapaxes(0, 1).reshape(*q.shape[:2], -1).astype(dtype), state.astype(kind)
