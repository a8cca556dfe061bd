"""Attention of traced arrays through the kernel: heads laid side by side, the mask padded, the meaning in plain JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kopt.targets.kernels.attention import Attention
from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.choice import attention_kernel
from kopt.targets.kernels.kernel import lanes


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
    shape, cores = None if mask is None else mask.shape, calls.target.num_cores
    usual = attention_kernel(q.shape, v.shape, shape, scale, lanes(calls.target), cores)
    if usual is None:
        return None
    kernel = calls.scheduled(usual)
    operands = [x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1) for x in (q, k, v)]
    if mask is not None:
        after = kernel.padded_keys - kernel.keys
        operands.append(jnp.pad(mask.reshape(*kernel.mask, kernel.keys), [(0, 0)] * 3 + [(0, after)], constant_values=-np.inf))
    y = calls.call(kernel, operands, meaning)
    return y.reshape(kernel.batch, kernel.queries, kernel.heads, kernel.value_size).transpose(0, 2, 1, 3)


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
