"""Attention of traced arrays through the kernel: heads laid side by side, the mask padded, the meaning in plain JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kopt.targets.kernels.attention import Attention, attention_tiling
from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.kernel import lanes

MAX_TURNED_BYTES = 512 * 1024
"""Largest copy of a head's keys that a task may hold: it lies on the stack, and in the second-level cache."""


def attend(calls: KernelCalls, q: Any, k: Any, v: Any, mask: Any | None, scale: float) -> Any | None:
    """softmax(q k^T * scale + mask) v, or None where the kernel does not take these sizes.

    Args:
        calls: where the program's kernels are kept.
        q: f32 (B, H, Tq, D).
        k: f32 (B, KH, Tk, D).
        v: f32 (B, KH, Tk, Dv).
        mask: added to the scores, broadcast to (B, H, Tq, Tk), or None.
        scale: of the scores.
    """
    width = lanes(calls.target)
    (batch, heads, queries, size), (_, kv_heads, keys, value_size) = q.shape, v.shape
    padded = -(-keys // width) * width
    if min(batch, heads, queries, keys, size) < 1 or value_size < width or size * padded * 4 > MAX_TURNED_BYTES or heads % kv_heads:
        return None
    shape = () if mask is None else (1,) * (4 - mask.ndim) + mask.shape
    if shape and (shape[3] != keys or any(have not in (1, want) for have, want in zip(shape, (batch, heads, queries), strict=False))):
        return None
    tiling = attention_tiling(queries, keys, value_size, batch * heads, width, calls.target.num_cores)
    kernel = calls.scheduled(Attention(batch, queries, keys, heads, kv_heads, size, value_size, float(scale), shape[:3], width, tiling))
    operands = [x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1) for x in (q, k, v)]
    if mask is not None:
        operands.append(jnp.pad(mask.reshape(shape), [(0, 0)] * 3 + [(0, padded - keys)], constant_values=-np.inf))
    y = calls.call(kernel, operands, meaning)
    return y.reshape(batch, queries, heads, value_size).transpose(0, 2, 1, 3)


def meaning(kernel: Attention, q: Any, k: Any, v: Any, *mask: Any) -> Any:
    """The kernel in plain JAX."""

    def split(x: Any, heads: int) -> Any:
        x = x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        return jnp.repeat(x, kernel.heads // heads, 1) if heads < kernel.heads else x

    q, k, v = split(q, kernel.heads), split(k, kernel.kv_heads), split(v, kernel.kv_heads)
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2)) * np.float32(kernel.scale)
    scores = scores + mask[0][..., : kernel.keys] if mask else scores
    dead = jnp.all(jnp.isneginf(scores), -1, keepdims=True)
    y = jnp.matmul(jnp.where(dead, 0, jax.nn.softmax(scores, -1)), v)
    return y.transpose(0, 2, 1, 3).reshape(kernel.result)
