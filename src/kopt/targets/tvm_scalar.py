"""What the operations of an expression tree are in TIR, for one element or for a vector of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from kopt.targets.kernels.emit import Expression, Vectors

_EXP_OVERFLOW = 88.72283

REPEATING = frozenset({"max", "min", "exp", "sigmoid", "erf", "tanh", "sign", "gelu", "gelu_tanh", "abs", "isnan"})
"""Operations that name an argument repeatedly."""


@dataclass(frozen=True)
class Lanes(Vectors):
    """Vectors that may have a single lane, and elements of any type."""

    def run(self, start: Expression) -> Expression:
        """Consecutive indices from ``start`` on."""
        return start if self.lanes == 1 else super().run(start)

    def broadcast(self, value: Expression) -> Expression:
        """One number in every lane."""
        return value if self.lanes == 1 else super().broadcast(value)

    def number(self, value: Any, dtype: str) -> Expression:
        """The same constant in every lane."""
        return self.broadcast(tirx.const(value, dtype))

    def type(self, dtype: str) -> str:
        """TVM's name of the vector type."""
        return dtype if self.lanes == 1 else f"{dtype}x{self.lanes}"

    def cast(self, value: Expression, dtype: str) -> Expression:
        """Elements of another type; floats are cut towards zero."""
        return tirx.Cast(self.type(dtype), value)

    def load_strided(self, buffer: Any, start: Expression, stride: int) -> Expression:
        """Elements ``stride`` apart; truth values are stored as bytes."""
        if stride == 0 or self.lanes == 1:
            value = self.broadcast(buffer[start])
        else:
            value = buffer[tirx.Ramp(start, tirx.const(stride, "int32"), self.lanes)]
        return value


def apply(lanes: Lanes, name: str, dtype: str, args: Sequence[Expression], arg_dtype: str) -> Expression:
    """The operation ``name`` on vectors.

    Args:
        lanes: of the vectors.
        name: a key of the tables below.
        dtype: of the result's elements.
        args: the arguments.
        arg_dtype: of the first argument's elements.
    """
    if name == "cast":
        return _cast(lanes, args[0], arg_dtype, dtype)
    if name == "select":
        return tirx.Select(args[0], args[1], args[2])
    if name in _FLOAT:
        return _FLOAT[name](lanes, arg_dtype, *args)
    return _PLAIN[name](*args)


def _cast(lanes: Lanes, x: Expression, source: str, dtype: str) -> Expression:
    if source == dtype:
        return x
    if dtype == "bool":
        return x != lanes.number(0, source)
    return lanes.cast(x, dtype)


def _isnan(lanes: Lanes, dtype: str, x: Expression) -> Expression:
    """By the bits: the simplifier takes ``x != x`` for false."""
    if dtype not in ("float32", "float64"):
        return x != x  # noqa: PLR0124
    bits, magnitude, infinity = ("int32", 0x7FFFFFFF, 0x7F800000) if dtype == "float32" else ("int64", (1 << 63) - 1, 0x7FF << 52)
    held = tirx.reinterpret(lanes.type(bits), x)
    return (held & lanes.number(magnitude, bits)) > lanes.number(infinity, bits)


def _max(lanes: Lanes, dtype: str, a: Expression, b: Expression) -> Expression:
    """The larger; NaN where either is NaN."""
    return tirx.Select(_isnan(lanes, dtype, a), a, tirx.max(a, b)) if dtype.startswith("float") else tirx.max(a, b)


def _min(lanes: Lanes, dtype: str, a: Expression, b: Expression) -> Expression:
    """The smaller; NaN where either is NaN."""
    return tirx.Select(_isnan(lanes, dtype, a), a, tirx.min(a, b)) if dtype.startswith("float") else tirx.min(a, b)


def _exp(lanes: Lanes, dtype: str, x: Expression) -> Expression:
    if dtype != "float32":
        return tirx.exp(x)
    return tirx.Select(x > lanes.constant(_EXP_OVERFLOW), lanes.constant(float("inf")), lanes.exp(x))


def _sigmoid(lanes: Lanes, dtype: str, x: Expression) -> Expression:
    one = lanes.number(1.0, dtype)
    return one / (one + _exp(lanes, dtype, lanes.number(-1.0, dtype) * x))


def _erf(lanes: Lanes, dtype: str, x: Expression) -> Expression:
    return lanes.erf(x) if dtype == "float32" else tirx.call_intrin(lanes.type(dtype), "tirx.erf", x)


def _tanh(lanes: Lanes, dtype: str, x: Expression) -> Expression:
    return lanes.tanh(x) if dtype == "float32" else tirx.tanh(x)


def _sign(lanes: Lanes, dtype: str, x: Expression) -> Expression:
    zero, one, less = lanes.number(0, dtype), lanes.number(1, dtype), lanes.number(-1 if not dtype.startswith("uint") else 0, dtype)
    return tirx.Select(x > zero, one, tirx.Select(x < zero, less, x))


def _div(_lanes: Lanes, dtype: str, a: Expression, b: Expression) -> Expression:
    return a / b if dtype.startswith("float") else tirx.truncdiv(a, b)


_FLOAT: dict[str, Callable[..., Expression]] = {
    "max": _max,
    "min": _min,
    "exp": _exp,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "tanh": _tanh,
    "sign": _sign,
    "div": _div,
    "gelu": lambda lanes, _, x: lanes.gelu(x),
    "gelu_tanh": lambda lanes, _, x: lanes.gelu_tanh(x),
    "abs": lambda lanes, dtype, x: tirx.Select(x < lanes.number(0, dtype), -x, x) if not dtype.startswith("uint") else x,
    "isnan": _isnan,
}
"""Operations that need the lanes or the type: (lanes, dtype of the first argument, *arguments)."""

_PLAIN: dict[str, Callable[..., Expression]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "mod": tirx.floormod,
    "fmod": tirx.truncmod,
    "at_least": tirx.max,  # NaN passes as x
    "at_most": tirx.min,
    "neg": lambda a: -a,
    "sqrt": tirx.sqrt,
    "log": tirx.log,
    "pow": tirx.pow,
    "sin": tirx.sin,
    "cos": tirx.cos,
    "floor": tirx.floor,
    "ceil": tirx.ceil,
    "round": tirx.nearbyint,
    "eq": tirx.EQ,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "and": tirx.And,
    "or": tirx.Or,
    "not": tirx.Not,
}
