"""Results of 16-bit floats hold no more than 16 bits.

XLA on the CPU computes them in f32 and drops conversions to 16 bits and back, so that a step may see more of its input
than ONNX gives it. What goes through here is rounded in f32, which XLA keeps.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

from kopt.targets.lowering.registry import Array

_BF16, _F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)

MOVES = frozenset({
    "Abs", "Cast", "CastLike", "Clip", "Compress", "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "GlobalMaxPool", "Identity", "If", "Loop", "Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax",
    "ReduceMin", "Relu", "Reshape", "ReverseSequence", "Scan", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK",
    "Transpose", "Trilu", "Unsqueeze", "Where",
})  # fmt: skip
"""ai.onnx operators whose results are values of their inputs, as wide as those; Cast only ever feeds what rounds itself."""

ROUND_THEMSELVES = frozenset({"ProductMixed", "FusedConvNhwcMixed"})
"""Operators of com.kopt whose kernels write 16 bits; rounding them again would be a pass over memory."""


def is_narrow(x: Any) -> bool:
    """Whether an array has 16-bit floats."""
    return np.dtype(x.dtype) in (_BF16, _F16)


def rounded(x: Array, dtype: Any) -> Array:
    """F32 values rounded to the nearest that ``dtype`` has, still in f32; unchanged for other types than bf16 and f16."""
    if dtype == _BF16:
        return lax.reduce_precision(x, 8, 7)
    if dtype != _F16:
        return x
    # reduce_precision takes numbers below the normal ones for 0; those are multiples of 2**-24
    small = lax.round(x * np.float32(2**24), lax.RoundingMethod.TO_NEAREST_EVEN) * np.float32(2**-24)
    return jnp.where(jnp.abs(x) < np.float32(2**-14), small, lax.reduce_precision(x, 5, 10))


def narrowed(x: Array) -> Array:
    """An array of 16-bit floats that holds no more than those."""
    return rounded(jnp.asarray(x).astype(np.float32), np.dtype(x.dtype)).astype(x.dtype)
