"""Recognise Swish, HardSwish and Mish spelled out."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose
from typing import ClassVar

from kopt.ir.builder import Builder
from kopt.ir.graph import Attr, Graph, Value
from kopt.ir.pattern import Match, Var, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext, Skip, register

_X = Var("x")


def _emit(m: Match, b: Builder, name: str, **attrs: Attr) -> Value:
    output = m.root.output
    return b.emit_many(name, m["x"], attrs=attrs, types=[output.type], hint=output.name)[0]


@rule(op("Mul", _X, op("Sigmoid", _X), commutative=True))
def fuse_swish(m: Match, b: Builder) -> Value | Skip:
    """X * sigmoid(x)   ==>   Swish(x)."""
    return _emit(m, b, "Swish", alpha=1.0)


@rule(op("Mul", _X, op("HardSigmoid", _X, as_="gate"), commutative=True))
def fuse_hard_swish(m: Match, b: Builder) -> Value | Skip:
    """X * max(0, min(1, x / 6 + 1/2))   ==>   HardSwish(x)."""
    attrs = m.node("gate").attrs
    alpha, beta = float(attrs["alpha"]), float(attrs["beta"])  # type: ignore[arg-type]
    if not isclose(alpha, 1 / 6, rel_tol=1e-6) or not isclose(beta, 0.5, rel_tol=1e-6):
        return Skip("the gate is not x / 6 + 1/2")
    return _emit(m, b, "HardSwish")


@rule(op("Mul", _X, op("Tanh", op("Softplus", _X)), commutative=True))
def fuse_mish(m: Match, b: Builder) -> Value | Skip:
    """X * tanh(softplus(x))   ==>   Mish(x)."""
    return _emit(m, b, "Mish")


@register
@dataclass(frozen=True)
class FuseSwish:
    """Replace spelled-out Swish, HardSwish and Mish by one node.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fuse-swish"
    max_rounds: int = 2

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with Swish, HardSwish and Mish nodes."""
        return rewrite(graph, [fuse_swish, fuse_hard_swish, fuse_mish], ctx, max_rounds=self.max_rounds)
