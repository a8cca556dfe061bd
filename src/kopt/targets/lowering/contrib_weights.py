"""ONNX Runtime's operators whose weights alone are quantized. Source: onnxruntime/docs/ContribOperators.md."""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import MICROSOFT
from kopt.targets.lowering.matmul import dot
from kopt.targets.lowering.quant import dynamic_quantize
from kopt.targets.lowering.recurrent import lstm_layer
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _unpacked(packed: Array, bits: int) -> Array:
    """(..., n) bytes ==> (..., n * 8 / bits) integers, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (jnp.asarray(packed)[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*packed.shape[:-1], packed.shape[-1] * len(shifts))


@lowers("MatMulNBits", domain=MICROSOFT)
def matmul_n_bits(
    ctx: LoweringContext, a: Array, b: Array, scales: Array, zeros: Any = None, groups: Any = None, bias: Any = None
) -> Array:
    """A @ W', where W is stored in blocks of few bits.

    Args:
        ctx: the node.
        a: (..., K).
        b: u8 (N, blocks, bytes of a block).
        scales: (N, blocks).
        zeros: packed as ``b``, or of a's type (N, blocks); by default the middle of the range.
        groups: (K,) the block each row belongs to, where it is not its place that says so.
        bias: (N,).
    """
    bits, block, width, depth = (int(ctx.attr(name, 4)) for name in ("bits", "block_size", "N", "K"))
    if bits not in (2, 4, 8) or ctx.attr("weight_prepacked", 0):
        raise ctx.unsupported(f"{bits}-bit weights, or weights packed for a device, have no lowering")
    a, count = jnp.asarray(a), -(-depth // block)
    if 0 in b.shape:  # an omitted projection
        y = jnp.zeros((*a.shape[:-1], width), a.dtype)
        return y if bias is None else y + jnp.asarray(bias)
    whole = _unpacked(jnp.asarray(b).reshape(width, count, -1), bits).reshape(width, -1)[:, :depth]
    held = np.arange(depth) // block if groups is None else jnp.asarray(groups)[:depth]
    kind = np.dtype(np.float32 if a.dtype.itemsize < 4 else a.dtype)
    if zeros is None:
        offset: Any = jnp.full((width, count), 1 << (bits - 1), kind)
    elif zeros.dtype == np.uint8:
        offset = _unpacked(jnp.asarray(zeros).reshape(width, -1), bits)[:, :count].astype(kind)
    else:
        offset = jnp.asarray(zeros).reshape(width, count).astype(kind)
    factor = jnp.asarray(scales).reshape(width, count).astype(kind)
    weight = ((whole.astype(kind) - jnp.take(offset, held, 1)) * jnp.take(factor, held, 1)).astype(a.dtype)
    y = dot(a.reshape(prod(a.shape[:-1]), depth), weight.T).reshape(*a.shape[:-1], width)
    return y if bias is None else y + jnp.asarray(bias)


def _eight_bits(x: Array) -> Array:
    """X rounded to the 256 values that a product of integers would take it as."""
    whole, scale, zero = dynamic_quantize(x)
    return (whole.astype(np.float32) - zero.astype(np.float32)) * scale


def _weight(values: Array, scale: Array, zero: Array) -> Array:
    """(directions, rows, 4 * hidden) integers ==> (directions, 4 * hidden, rows) f32."""
    scale, zero = (jnp.asarray(x).astype(np.float32).reshape(values.shape[0], 1, -1) for x in (scale, zero))
    return jnp.swapaxes((jnp.asarray(values).astype(np.float32) - zero) * scale, 1, 2)


@lowers("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_quantize_lstm(
    ctx: LoweringContext, x: Array, w: Array, r: Array, b: Any, lengths: Any, h: Any, c: Any, p: Any, *scales: Array
) -> tuple[Array, ...]:
    """An LSTM of 8-bit weights, whose input and state are quantized over their range before each product."""
    w_scale, w_zero, r_scale, r_zero = scales
    weights = (_weight(w, w_scale, w_zero), _weight(r, r_scale, r_zero), b, p)
    return lstm_layer(ctx, _eight_bits(x), weights, lengths, (h, c), narrowed=_eight_bits)[: ctx.num_outputs]
