"""Elementwise arithmetic, comparison, logic and bits. Shapes broadcast as numpy does; dtypes are ONNX's, never promoted."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _unary(op: str, function: Callable[[Array], Array]) -> None:
    @lowers(op)
    def lowering(ctx: LoweringContext, x: Array) -> Array:
        return function(x).astype(x.dtype)


def _binary(op: str, function: Callable[[Array, Array], Array], *, logical: bool = False) -> None:
    @lowers(op)
    def lowering(ctx: LoweringContext, a: Array, b: Array) -> Array:
        result = function(jnp.asarray(a), jnp.asarray(b))
        return result.astype(np.bool_ if logical else a.dtype)


for _op, _function in {
    "Abs": jnp.abs,
    "Acos": jnp.arccos,
    "Acosh": jnp.arccosh,
    "Asin": jnp.arcsin,
    "Asinh": jnp.arcsinh,
    "Atan": jnp.arctan,
    "Atanh": jnp.arctanh,
    "Ceil": jnp.ceil,
    "Cos": jnp.cos,
    "Cosh": jnp.cosh,
    "Exp": jnp.exp,
    "Floor": jnp.floor,
    "Log": jnp.log,
    "Neg": jnp.negative,
    "Reciprocal": lambda x: 1 / x,
    "Round": jnp.round,  # half to even, as ONNX asks
    "Sign": jnp.sign,
    "Sin": jnp.sin,
    "Sinh": jnp.sinh,
    "Sqrt": jnp.sqrt,
    "Tan": jnp.tan,
    "Tanh": jnp.tanh,
    "Erf": lambda x: lax.erf(x) if jnp.issubdtype(x.dtype, jnp.floating) else lax.erf(x.astype(np.float32)),
    "Not": jnp.logical_not,
    "BitwiseNot": jnp.bitwise_not,
    "Identity": lambda x: x,
}.items():
    _unary(_op, _function)

for _op, _function2 in {
    "Add": jnp.add,
    "Sub": jnp.subtract,
    "Mul": jnp.multiply,
    "BitwiseAnd": jnp.bitwise_and,
    "BitwiseOr": jnp.bitwise_or,
    "BitwiseXor": jnp.bitwise_xor,
}.items():
    _binary(_op, _function2)

_COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "Equal": jnp.equal,
    "Greater": jnp.greater,
    "GreaterOrEqual": jnp.greater_equal,
    "Less": jnp.less,
    "LessOrEqual": jnp.less_equal,
    "And": jnp.logical_and,
    "Or": jnp.logical_or,
    "Xor": jnp.logical_xor,
}
for _op, _comparison in _COMPARISONS.items():
    _binary(_op, _comparison, logical=True)


@lowers("Div")
def div(ctx: LoweringContext, a: Array, b: Array) -> Array:
    """A / b; integers truncate towards zero, x / 0 is 0 and the least integer over -1 wraps: nothing traps."""
    if not jnp.issubdtype(a.dtype, jnp.integer):
        return jnp.divide(a, b).astype(a.dtype)
    a, b = jnp.broadcast_arrays(a, b)
    zero, minus_one = b == 0, b == -1 if jnp.issubdtype(b.dtype, jnp.signedinteger) else jnp.zeros(b.shape, bool)
    quotient = lax.div(a, jnp.where(zero | minus_one, jnp.ones_like(b), b))
    return jnp.where(zero, jnp.zeros_like(a), jnp.where(minus_one, -a, quotient))


@lowers("Mod")
def mod(ctx: LoweringContext, a: Array, b: Array) -> Array:
    """Remainder: the divisor's sign (fmod=0, integers) or the dividend's (fmod=1); x mod 0 is 0 for integers."""
    dtype = a.dtype
    a, b = jnp.broadcast_arrays(a, b)
    if not jnp.issubdtype(dtype, jnp.integer):
        return (jnp.fmod(a, b) if ctx.attr("fmod") else jnp.mod(a, b)).astype(dtype)
    unsafe = (b == 0) | ((b == -1) if jnp.issubdtype(dtype, jnp.signedinteger) else False)
    divisor = jnp.where(unsafe, jnp.ones_like(b), b)
    rest = lax.rem(a, divisor)
    if not ctx.attr("fmod"):
        rest = jnp.where((rest != 0) & ((rest < 0) != (divisor < 0)), rest + divisor, rest)
    return jnp.where(unsafe, jnp.zeros_like(a), rest).astype(dtype)


@lowers("Pow")
def power(ctx: LoweringContext, a: Array, b: Array) -> Array:
    """A ** b in a's dtype. Small constant exponents become products, which are exact and fast."""
    if isinstance(b, np.ndarray) and b.size == 1 and float(b.ravel()[0]) in (1.0, 2.0, 3.0) and np.ndim(b) <= np.ndim(a):
        return jnp.broadcast_to(lax.integer_pow(jnp.asarray(a), int(b.item())), jnp.broadcast_shapes(a.shape, b.shape))
    if jnp.issubdtype(a.dtype, jnp.integer) and jnp.issubdtype(b.dtype, jnp.floating):
        return jnp.power(a.astype(b.dtype), b).astype(a.dtype)
    if jnp.issubdtype(a.dtype, jnp.floating):
        return jnp.power(a, b.astype(a.dtype)).astype(a.dtype)
    return jnp.power(a, b).astype(a.dtype)


@lowers("BitShift")
def bit_shift(ctx: LoweringContext, a: Array, b: Array) -> Array:
    """Signed integers keep their sign to the right; by the width or more only the sign is left."""
    a, b = jnp.broadcast_arrays(a, b)
    if ctx.attr("direction") == "LEFT":
        return lax.shift_left(a, b)
    return lax.shift_right_arithmetic(a, b) if jnp.issubdtype(a.dtype, jnp.signedinteger) else lax.shift_right_logical(a, b)


@lowers("Max", "Min", "Sum", "Mean")
def variadic(ctx: LoweringContext, *arrays: Array) -> Array:
    """Elementwise over any number of inputs; NaN propagates."""
    functions: dict[str, Callable[..., Any]] = {"Max": jnp.maximum, "Min": jnp.minimum, "Sum": jnp.add, "Mean": jnp.add}
    result = reduce(functions[ctx.node.op], [jnp.asarray(array) for array in arrays])
    if ctx.node.op == "Mean":
        result = result / jnp.asarray(len(arrays), result.dtype)
    return result.astype(arrays[0].dtype)


@lowers("Clip")
def clip(ctx: LoweringContext, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """min(max(x, low), high); NaN stays. ``high`` wins where the bounds cross."""
    x = jnp.asarray(x)
    if low is not None:
        x = jnp.maximum(x, jnp.asarray(low).astype(x.dtype))
    if high is not None:
        x = jnp.minimum(x, jnp.asarray(high).astype(x.dtype))
    return x


@lowers("Where")
def where(ctx: LoweringContext, condition: Array, a: Array, b: Array) -> Array:
    """A where the condition holds, else b."""
    return jnp.where(condition, a, b).astype(a.dtype)


@lowers("IsInf")
def is_inf(ctx: LoweringContext, x: Array) -> Array:
    """Infinite, of the signs asked for."""
    x = jnp.asarray(x)
    x = x.astype(np.float32) if x.dtype.itemsize < 4 else x
    positive = jnp.isposinf(x) if ctx.attr("detect_positive") else jnp.zeros(x.shape, bool)
    return positive | (jnp.isneginf(x) if ctx.attr("detect_negative") else jnp.zeros(x.shape, bool))


@lowers("IsNaN")
def is_nan(ctx: LoweringContext, x: Array) -> Array:
    """Not a number."""
    return jnp.isnan(jnp.asarray(x))
