"""Operators whose result at a place depends on the operands there alone."""

from __future__ import annotations

from functools import reduce

import numpy as np

from kopt.ir.graph import MICROSOFT
from kopt.targets.tvm_ops.registry import Context, translates
from kopt.targets.tvm_plan import Refused
from kopt.targets.tvm_tree import Number, Tensor

_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or"}
_COMPARE = {"Equal": "eq", "Less": "lt", "LessOrEqual": "le"}
_UNARY = {
    **{"Neg": "neg", "Abs": "abs", "Sqrt": "sqrt", "Exp": "exp", "Log": "log", "Tanh": "tanh", "Erf": "erf", "Sigmoid": "sigmoid"},
    **{"Floor": "floor", "Ceil": "ceil", "Round": "round", "Sin": "sin", "Cos": "cos", "Sign": "sign", "Not": "not"},
}


@translates(*_BINARY)
def binary(ctx: Context, a: Tensor, b: Tensor) -> Tensor:
    """Arithmetic, and And and Or."""
    return ctx.apply(_BINARY[ctx.node.op], a, b)


@translates(*_COMPARE)
def compare(ctx: Context, a: Tensor, b: Tensor) -> Tensor:
    """Comparisons; the operands keep their order, so that NaN compares as it should."""
    return ctx.apply(_COMPARE[ctx.node.op], a, b)


@translates("Greater", "GreaterOrEqual")
def greater(ctx: Context, a: Tensor, b: Tensor) -> Tensor:
    """Comparisons with the operands the other way round."""
    return ctx.apply("lt" if ctx.node.op == "Greater" else "le", b, a)


@translates("Xor")
def xor(ctx: Context, a: Tensor, b: Tensor) -> Tensor:
    """Truth values that differ."""
    return ctx.apply("not", ctx.apply("eq", *(ctx.apply("cast", one, dtype="int32") for one in (a, b))))


@translates(*_UNARY)
def unary(ctx: Context, x: Tensor) -> Tensor:
    """Functions of one number."""
    return ctx.apply(_UNARY[ctx.node.op], x)


@translates("IsNaN")
def isnan(ctx: Context, x: Tensor) -> Tensor:
    """Whether an element is no number."""
    return ctx.apply("isnan", x)


@translates("Relu")
def relu(ctx: Context, x: Tensor) -> Tensor:
    """max(x, 0)."""
    return ctx.apply("at_least", ctx.number(0), x)


@translates("LeakyRelu", "Elu", "Selu", "PRelu", "ThresholdedRelu")
def bent(ctx: Context, x: Tensor, slope: Tensor | None = None) -> Tensor:
    """The number itself above a threshold, something else below."""
    op, zero = ctx.node.op, ctx.number(0)
    if op == "PRelu" and slope is not None:
        below = ctx.apply("mul", x, slope)
    elif op == "LeakyRelu":
        below = ctx.apply("mul", x, ctx.number(ctx.attr("alpha")))
    elif op in ("Elu", "Selu"):
        below = ctx.apply("mul", ctx.apply("sub", ctx.apply("exp", x), ctx.number(1)), ctx.number(ctx.attr("alpha")))
    else:
        return ctx.apply("select", ctx.apply("lt", ctx.number(ctx.attr("alpha")), x, dtype="bool"), x, zero)
    y = ctx.apply("select", ctx.apply("lt", x, zero, dtype="bool"), below, x)
    return ctx.apply("mul", y, ctx.number(ctx.attr("gamma"))) if op == "Selu" else y


@translates("HardSigmoid", "HardSwish", "Softsign", "Swish")
def gate(ctx: Context, x: Tensor) -> Tensor:
    """Gates made of plain arithmetic, and x * sigmoid(alpha * x)."""
    op = ctx.node.op
    if op == "Softsign":
        return ctx.apply("div", x, ctx.apply("add", ctx.number(1), ctx.apply("abs", x)))
    if op == "Swish":
        return ctx.apply("mul", x, ctx.apply("sigmoid", ctx.apply("mul", ctx.number(ctx.attr("alpha", 1.0)), x)))
    alpha, beta = (1 / 6, 0.5) if op == "HardSwish" else (ctx.attr("alpha"), ctx.attr("beta"))
    line = ctx.apply("add", ctx.apply("mul", ctx.number(alpha), x), ctx.number(beta))
    found = ctx.apply("at_most", ctx.number(1), ctx.apply("at_least", ctx.number(0), line))
    return ctx.apply("mul", x, found) if op == "HardSwish" else found


@translates("Gelu")
def gelu(ctx: Context, x: Tensor) -> Tensor:
    """x/2 * (1 + erf(x / sqrt 2)), or its approximation by tanh."""
    if ctx.dtype != "float32":
        raise Refused("only f32")
    return ctx.apply("gelu_tanh" if ctx.attr("approximate") == "tanh" else "gelu", x)


@translates("Clip")
def clip(ctx: Context, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limited to [low, high]."""
    x = x if low is None else ctx.apply("at_least", low, x)
    return x if high is None else ctx.apply("at_most", high, x)


@translates("Max", "Min")
def extreme(ctx: Context, *args: Tensor) -> Tensor:
    """The largest or smallest of several; NaN where one is."""
    return reduce(lambda a, b: ctx.apply(ctx.node.op.lower(), a, b), args)


@translates("Sum", "Mean")
def total(ctx: Context, *args: Tensor) -> Tensor:
    """The sum of several, or their mean."""
    found = reduce(lambda a, b: ctx.apply("add", a, b), args)
    return found if ctx.node.op == "Sum" else ctx.apply("mul", found, ctx.number(1 / len(args)))


@translates("Reciprocal")
def reciprocal(ctx: Context, x: Tensor) -> Tensor:
    """1 / x."""
    return ctx.apply("div", ctx.number(1), x)


@translates("Softplus")
def softplus(ctx: Context, x: Tensor) -> Tensor:
    """log(1 + exp x), written so that it does not overflow."""
    tail = ctx.apply("log", ctx.apply("add", ctx.number(1), ctx.apply("exp", ctx.apply("neg", ctx.apply("abs", x)))))
    return ctx.apply("add", ctx.apply("at_least", ctx.number(0), x), tail)


@translates("Pow")
def power(ctx: Context, x: Tensor, exponent: Tensor) -> Tensor:
    """Powers; small whole exponents and roots as products."""
    tree = exponent.tree
    if isinstance(tree, Number) and x.dtype.startswith("float") and float(tree.value) in (1.0, 2.0, 3.0, 0.5):
        found = x if tree.value == 1 else ctx.apply("sqrt", x) if tree.value == 0.5 else ctx.apply("mul", x, x)
        found = ctx.apply("mul", found, x) if tree.value == 3 else found
        return ctx.plan.expanded(found, ctx.shape)
    wide = "float32" if x.dtype == "float32" else "float64"
    return ctx.apply("cast", ctx.apply("pow", *(ctx.apply("cast", one, dtype=wide) for one in (x, exponent)), dtype=wide))


@translates("Mod")
def mod(ctx: Context, a: Tensor, b: Tensor) -> Tensor:
    """The remainder, with the divisor's sign, or with ``fmod`` the dividend's."""
    if ctx.dtype.startswith("float"):
        raise Refused("remainders of floats")
    return ctx.apply("fmod" if ctx.attr("fmod") else "mod", a, b)


@translates("Where")
def where(ctx: Context, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One operand where the condition holds, else the other."""
    return ctx.apply("select", condition, a, b)


@translates("Cast", "CastLike")
def cast(ctx: Context, x: Tensor, like: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """Another element type."""
    return x if x.dtype == ctx.dtype else ctx.apply("cast", x)


@translates("Identity", "Dropout")
def same(ctx: Context, x: Tensor, *rest: Tensor | None) -> Tensor:
    """The tensor itself."""
    if ctx.wants(1) or (len(rest) > 1 and rest[1] is not None and np.any(ctx.values(rest[1], "mode"))):
        raise Refused("dropout in training")
    return x


@translates("BatchNormalization")
def batch_norm(ctx: Context, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) * scale + bias per channel."""
    if ctx.wants(1):
        raise Refused("training")
    shape = (-1 if len(x.shape) < 2 else x.shape[1], *(1,) * (len(x.shape) - 2))
    scale, bias, mean, var = (ctx.plan.reshaped(one, shape) for one in (scale, bias, mean, var))
    factor = ctx.apply("div", scale, ctx.apply("sqrt", ctx.apply("add", var, ctx.number(ctx.attr("epsilon")))))
    return ctx.apply("add", ctx.apply("mul", ctx.apply("sub", x, mean), ctx.plan.stored(factor)), bias)


@translates("QuickGelu", domain=MICROSOFT)
def quick_gelu(ctx: Context, x: Tensor) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return ctx.apply("mul", x, ctx.apply("sigmoid", ctx.apply("mul", ctx.number(ctx.attr("alpha", 1.702)), x)))
