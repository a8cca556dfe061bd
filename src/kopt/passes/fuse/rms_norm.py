"""Recognise root-mean-square normalization spelled out with ReduceMean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.builder import Builder
from kopt.ir.graph import Attr, Graph, Value
from kopt.ir.pattern import Match, Number, Var, any_of, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext, Skip, register

_X = Var("x")
_SQUARE = any_of(op("Pow", _X, Number(2.0)), op("Mul", _X, _X))
_MEAN = op("ReduceMean", _SQUARE, Var("axes", constant=True), as_="mean")
_ROOT = op("Sqrt", op("Add", _MEAN, Var("epsilon", constant=True), commutative=True))
_UNIT = any_of(
    op("Mul", _X, any_of(op("Reciprocal", _ROOT), op("Div", Number(1.0), _ROOT)), commutative=True),
    op("Div", _X, _ROOT),
)


@rule(op("Mul", _UNIT, Var("scale", constant=True), commutative=True))
def fuse_rms_norm(m: Match, b: Builder) -> Value | Skip:
    """X / sqrt(mean(x^2) + epsilon) * scale   ==>   RMSNormalization(x, scale), the mean over the last axis."""
    tensor, epsilon = m["x"].tensor, m.array("epsilon")
    if tensor.rank is None or not m.node("mean").attrs.get("keepdims", 1):
        return Skip("the mean does not keep its axis")
    if m.array("axes").tolist() not in ([-1], [tensor.rank - 1]):
        return Skip("the mean is not over the last axis alone")
    if tensor.shape is None or m["scale"].tensor.shape != tensor.shape[-1:] or m["scale"].tensor.dtype != tensor.dtype:
        return Skip("scale is not one number per channel")
    if epsilon.size != 1 or tensor.dtype.value != "f32":
        return Skip("epsilon is not one number, or x is not f32")
    attrs: dict[str, Attr] = {"axis": -1, "epsilon": float(epsilon.item()), "stash_type": 1}
    output = m.root.output
    return b.emit_many("RMSNormalization", m["x"], m["scale"], attrs=attrs, types=[output.type], hint=output.name)[0]


@register
@dataclass(frozen=True)
class FuseRmsNorm:
    """Replace root-mean-square normalization subgraphs by one RMSNormalization node.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fuse-rms-norm"
    max_rounds: int = 2

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with RMSNormalization nodes."""
        return rewrite(graph, [fuse_rms_norm], ctx, max_rounds=self.max_rounds)
