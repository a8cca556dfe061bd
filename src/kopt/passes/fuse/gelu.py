"""Recognise GELU spelled out with Erf or Tanh."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import ClassVar

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.ir.pattern import Match, Number, Pattern, Var, any_of, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext, Skip, register

_X = Var("x")


def _mul(a: Pattern, b: Pattern) -> Pattern:
    return op("Mul", a, b, commutative=True)


_ERF_1 = op("Add", op("Erf", any_of(op("Div", _X, Number(sqrt(2))), _mul(_X, Number(1 / sqrt(2))))), Number(1.0), commutative=True)
_CUBE = any_of(op("Pow", _X, Number(3.0)), _mul(_X, _mul(_X, _X)))
_INNER = op("Add", _X, _mul(_CUBE, Number(0.044715)), commutative=True)
_TANH_1 = op("Add", op("Tanh", _mul(_INNER, Number(sqrt(2 / pi)))), Number(1.0), commutative=True)


def _replacement(m: Match, b: Builder, approximate: str) -> Value | Skip:
    if m["x"].tensor.shape != m.root.output.tensor.shape:
        return Skip("the constants broadcast x to another shape")
    return b.emit_many("Gelu", m["x"], attrs={"approximate": approximate}, types=[m.root.output.type])[0]


@rule(op("Mul", _mul(_X, _ERF_1), Number(0.5), commutative=True))
def gelu_outer_half(m: Match, b: Builder) -> Value | Skip:
    """0.5 * (x * (1 + erf(x / sqrt(2))))   ==>   Gelu(x)."""
    return _replacement(m, b, "none")


@rule(op("Mul", _mul(_X, Number(0.5)), _ERF_1, commutative=True))
def gelu_half_x(m: Match, b: Builder) -> Value | Skip:
    """(0.5 * x) * (1 + erf(x / sqrt(2)))   ==>   Gelu(x)."""
    return _replacement(m, b, "none")


@rule(op("Mul", _X, _mul(_ERF_1, Number(0.5)), commutative=True))
def gelu_half_erf(m: Match, b: Builder) -> Value | Skip:
    """X * (0.5 * (1 + erf(x / sqrt(2))))   ==>   Gelu(x)."""
    return _replacement(m, b, "none")


@rule(op("Mul", _mul(_X, Number(0.5)), _TANH_1, commutative=True))
def gelu_tanh(m: Match, b: Builder) -> Value | Skip:
    """(0.5 * x) * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))   ==>   Gelu(x, approximate="tanh")."""
    return _replacement(m, b, "tanh")


@rule(op("Mul", _mul(_X, _TANH_1), Number(0.5), commutative=True))
def gelu_tanh_outer_half(m: Match, b: Builder) -> Value | Skip:
    """0.5 * (x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3))))   ==>   Gelu(x, approximate="tanh")."""
    return _replacement(m, b, "tanh")


@register
@dataclass(frozen=True)
class FuseGelu:
    """Replace GELU subgraphs by one Gelu node.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fuse-gelu"
    max_rounds: int = 2

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with Gelu nodes."""
        rules = [gelu_outer_half, gelu_half_x, gelu_half_erf, gelu_tanh, gelu_tanh_outer_half]
        return rewrite(graph, rules, ctx, max_rounds=self.max_rounds)
