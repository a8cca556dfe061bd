"""Conversions between element types."""

from __future__ import annotations

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def convert(x: Array, dtype: np.dtype, *, saturate: bool = True, rounding: str = "up") -> Array:
    """``x`` as ``dtype`` with ONNX's rules: to bool is "not zero"; 8-bit floats saturate when asked; narrow integers wrap."""
    x = jnp.asarray(x)
    if x.dtype == dtype:
        return x
    if dtype == np.bool_:
        return x != 0
    if dtype.name == "float8_e8m0fnu":
        return _to_power_of_two(x.astype(np.float32), dtype, saturate, rounding)
    if dtype.name.startswith(("float8", "float4")):
        return _to_narrow_float(x, dtype, saturate)
    if dtype.name in ("int4", "uint4", "int2", "uint2") and jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.trunc(x.astype(np.float32)).astype(np.int32).astype(dtype)
    return x.astype(dtype)


def _to_narrow_float(x: Array, dtype: np.dtype, saturate: bool) -> Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
    else:
        wide = x.astype(np.float32)
    if saturate:
        largest = float(ml_dtypes.finfo(dtype).max)
        wide = jnp.where(jnp.isnan(wide), wide, jnp.clip(wide, -largest, largest))
    return wide.astype(dtype)


def _to_power_of_two(x: Array, dtype: np.dtype, saturate: bool, rounding: str) -> Array:
    """The exponent alone, of an f32: rounded up, down or to the nearest. Zero becomes the smallest power, there is none below."""
    bits = lax.bitcast_convert_type(x, np.uint32)
    exponent, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    above = {"up": fraction > 0, "down": fraction < 0, "nearest": fraction >= 0x400000}[rounding]
    largest = 0xFE if saturate else 0xFF
    power = jnp.minimum(exponent + above.astype(np.uint32), largest)
    return lax.bitcast_convert_type(jnp.where(jnp.isnan(x), 0xFF, power).astype(np.uint8), dtype)


@lowers("Cast")
def cast(ctx: LoweringContext, x: Array) -> Array:
    """To the type named by ``to``."""
    dtype = ctx.node.output.tensor.dtype.numpy
    if isinstance(x, np.ndarray) and x.dtype.isbuiltin == dtype.isbuiltin == 1 and {x.dtype.kind, dtype.kind} <= set("biuf"):
        with np.errstate(all="ignore"):
            return x.astype(dtype)
    return convert(x, dtype, saturate=bool(ctx.attr("saturate", 1)), rounding=str(ctx.attr("round_mode", "up")))


@lowers("CastLike")
def cast_like(ctx: LoweringContext, x: Array, like: Array) -> Array:
    """To the type of the second input."""
    rounding = str(ctx.attr("round_mode", "up"))
    return convert(x, np.dtype(like.dtype), saturate=bool(ctx.attr("saturate", 1)), rounding=rounding)


@lowers("BitCast")
def bit_cast(ctx: LoweringContext, x: Array) -> Array:
    """The same bits as another type of the same width; a bool is a byte of 0 or 1."""
    dtype, x = ctx.node.output.tensor.dtype.numpy, jnp.asarray(x)
    if x.dtype == np.bool_:
        x = x.astype(np.uint8)
    return x != 0 if dtype == np.bool_ else lax.bitcast_convert_type(x, dtype)
