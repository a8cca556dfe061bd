"""The embedding layer of BERT as ONNX Runtime fuses it. Source: onnxruntime/docs/ContribOperators.md."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import MICROSOFT
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _rows(table: Array, indices: Array) -> Array:
    """Rows of an embedding; indices that lie outside are clipped, never a trap."""
    return jnp.take(jnp.asarray(table), jnp.asarray(indices), 0, mode="clip")


@lowers("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(
    ctx: LoweringContext,
    ids: Array,
    segments: Array | None,
    words: Array,
    positions: Array,
    segment_table: Array | None,
    scale: Array,
    shift: Array,
    mask: Any = None,
    position_ids: Any = None,
) -> tuple[Array, ...]:
    """The normalized sum of embeddings, the number of unmasked words, and the sum.  ids: (batch, seq)."""
    total = _rows(words, ids)
    total = total + (jnp.asarray(positions)[: ids.shape[1]] if position_ids is None else _rows(positions, position_ids))
    if segments is not None and segment_table is not None:
        total = total + _rows(segment_table, segments)
    wide = total.astype(np.float32) if total.dtype.itemsize < 4 else total
    centred = wide - wide.mean(-1, keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + np.asarray(ctx.attr("epsilon", 1e-12), wide.dtype))
    y = centred / deviation * jnp.asarray(scale).astype(wide.dtype) + jnp.asarray(shift).astype(wide.dtype)
    counts = jnp.zeros(ids.shape[0], np.int32) if mask is None else jnp.sum(jnp.asarray(mask), 1).astype(np.int32)
    return (y.astype(total.dtype), counts, total)[: ctx.num_outputs]
