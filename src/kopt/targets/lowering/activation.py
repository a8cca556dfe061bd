"""Activation functions. Formulas are those of the ONNX operator specification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

from kopt.targets.lowering.registry import Array, LoweringContext, lowers
from kopt.targets.lowering.rounding import rounded


def _activation(op: str, function: Callable[..., Array], *attrs: str) -> None:
    @lowers(op)
    def lowering(ctx: LoweringContext, x: Array) -> Array:
        return function(jnp.asarray(x), *(ctx.attr(name) for name in attrs)).astype(x.dtype)


def _elu(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


def _softplus(x: Array) -> Array:
    return jnp.logaddexp(x, jnp.zeros((), x.dtype))


def _shrink(x: Array, lambd: float, bias: float) -> Array:
    zero = jnp.zeros_like(x)
    return jnp.where(x < -lambd, x + jnp.asarray(bias, x.dtype), jnp.where(x > lambd, x - jnp.asarray(bias, x.dtype), zero))


def gelu(x: Array, approximate: str = "none") -> Array:
    """X * Phi(x), exact by erf or by tanh. Source: ONNX Gelu-20."""
    one, half = jnp.asarray(1, x.dtype), jnp.asarray(0.5, x.dtype)
    if approximate == "tanh":
        inner = np.sqrt(2 / np.pi).astype(x.dtype) * (x + jnp.asarray(0.044715, x.dtype) * x * x * x)
        return half * x * (one + jnp.tanh(inner))
    return half * x * (one + lax.erf(x * np.sqrt(0.5).astype(x.dtype)))


FUSED_ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "": lambda y: y,
    "Clip": lambda y, low, high: jnp.clip(y, jnp.asarray(low, y.dtype), jnp.asarray(high, y.dtype)),
    "Gelu": gelu,
    "GeluTanh": lambda y: gelu(y, "tanh"),
    "HardSigmoid": lambda y, alpha, beta: jnp.clip(alpha * y + beta, 0, 1),
    "LeakyRelu": lambda y, alpha: jnp.where(y < 0, jnp.asarray(alpha, y.dtype) * y, y),
    "Relu": lambda y: jnp.maximum(y, 0),
    "Sigmoid": lambda y: 1 / (1 + jnp.exp(-y)),
    "Tanh": jnp.tanh,
}
"""What may be fused to a product or convolution, by the names of com.microsoft's FusedConv and kopt's own."""


def activated(name: str, y: Array, params: Sequence[float] = ()) -> Array:
    """A fused activation in y's dtype; ``params`` are those of the standard operator, in order."""
    return FUSED_ACTIVATIONS[name](y, *params).astype(y.dtype)


for _op, _function, _attrs in (
    ("Relu", lambda x: jnp.maximum(x, jnp.zeros((), x.dtype)), ()),
    ("LeakyRelu", lambda x, alpha: jnp.where(x < 0, alpha * x, x), ("alpha",)),
    ("Sigmoid", jax.nn.sigmoid, ()),
    ("Elu", _elu, ("alpha",)),
    ("Celu", lambda x, alpha: jnp.maximum(x, 0) + jnp.minimum(0, alpha * jnp.expm1(jnp.minimum(x, 0) / alpha)), ("alpha",)),
    ("Selu", lambda x, alpha, gamma: gamma * _elu(x, alpha), ("alpha", "gamma")),
    ("Gelu", gelu, ("approximate",)),
    ("HardSigmoid", lambda x, alpha, beta: jnp.clip(alpha * x + beta, 0, 1), ("alpha", "beta")),
    ("HardSwish", lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1), ()),
    ("Mish", lambda x: x * jnp.tanh(_softplus(x)), ()),
    ("Softplus", _softplus, ()),
    ("Softsign", lambda x: x / (1 + jnp.abs(x)), ()),
    ("Swish", lambda x, alpha: x * jax.nn.sigmoid(alpha * x), ("alpha",)),
    ("ThresholdedRelu", lambda x, alpha: jnp.where(x > alpha, x, jnp.zeros_like(x)), ("alpha",)),
    ("Shrink", _shrink, ("lambd", "bias")),
):
    _activation(_op, _function, *_attrs)


@lowers("PRelu")
def prelu(ctx: LoweringContext, x: Array, slope: Array) -> Array:
    """X where positive, slope * x elsewhere."""
    return jnp.where(x < 0, slope * x, x).astype(x.dtype)


def softmax(x: Array, axis: int) -> Array:
    """exp(x - max) / sum; every step of 16-bit floats is rounded to their type, as the steps of ONNX's definition are."""
    wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
    if not wide.size:
        return x
    exponents = rounded(jnp.exp(rounded(wide - lax.stop_gradient(wide.max(axis, keepdims=True)), x.dtype)), x.dtype)
    return (exponents / rounded(_total(exponents, axis, x.dtype), x.dtype)).astype(x.dtype)


_SHORT = 16  # a row of so few numbers is added one by one


def _total(exponents: Array, axis: int, dtype: Any) -> Array:
    """The sum along an axis. bf16 rounds every sum, which is harmless in short rows and would stop long ones from growing."""
    count = exponents.shape[axis]
    if dtype != ml_dtypes.bfloat16 or count > _SHORT:
        return exponents.sum(axis, keepdims=True)
    parts = [lax.slice_in_dim(exponents, k, k + 1, axis=axis % exponents.ndim) for k in range(count)]
    return reduce(lambda total, part: rounded(total + part, dtype), parts)


@lowers("Softmax")
def lower_softmax(ctx: LoweringContext, x: Array) -> Array:
    """Softmax over one axis."""
    return softmax(jnp.asarray(x), ctx.axis(ctx.attr("axis"), x.ndim))


@lowers("LogSoftmax")
def log_softmax(ctx: LoweringContext, x: Array) -> Array:
    """X - max - log(sum(exp(x - max)))."""
    wide = x.astype(np.float32) if x.dtype.itemsize < 4 else jnp.asarray(x)
    return x if not x.size else jax.nn.log_softmax(wide, ctx.attr("axis")).astype(x.dtype)


@lowers("Hardmax")
def hardmax(ctx: LoweringContext, x: Array) -> Array:
    """1 at the first maximum along the axis, 0 elsewhere."""
    axis: Any = ctx.axis(ctx.attr("axis"), x.ndim)
    if not x.size:
        return x
    first = jnp.expand_dims(jnp.argmax(x, axis), axis)
    return (lax.broadcasted_iota(first.dtype, x.shape, axis) == first).astype(x.dtype)


@lowers("SwiGLU")
def swiglu(ctx: LoweringContext, gate: Array, up: Array) -> Array:
    """swish(gate) * up."""
    return (gate * jax.nn.sigmoid(ctx.attr("alpha") * gate) * up).astype(gate.dtype)
