"""Recognise layer normalization spelled out with ReduceMean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.builder import Builder
from kopt.ir.graph import Attr, Graph, Value
from kopt.ir.pattern import Match, Number, Var, any_of, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext, Skip, register

_X, _AXES, _AXES_2 = Var("x"), Var("axes", constant=True), Var("axes2", constant=True)
_D = op("Sub", _X, op("ReduceMean", _X, _AXES, as_="mean"))
_VAR = op("ReduceMean", any_of(op("Pow", _D, Number(2.0)), op("Mul", _D, _D)), _AXES_2, as_="var")
_UNIT = op("Div", _D, op("Sqrt", op("Add", _VAR, Var("epsilon", constant=True), commutative=True)))
_SCALED = op("Mul", _UNIT, Var("scale", constant=True), commutative=True)


@rule(op("Add", _SCALED, Var("bias", constant=True), commutative=True))
def fuse_layer_norm(m: Match, b: Builder) -> Value | Skip:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias   ==>   LayerNormalization(x, scale, bias).

    The means are over the last axis.
    """
    rank, epsilon = m["x"].tensor.rank, m.array("epsilon")
    for mean, axes in (("mean", "axes"), ("var", "axes2")):
        if not m.node(mean).attrs.get("keepdims", 1) or m.array(axes).tolist() not in ([-1], [None if rank is None else rank - 1]):
            return Skip("the mean is not over the last axis alone, kept")
    shape = m["x"].tensor.shape
    if shape is None or m["scale"].tensor.shape != shape[-1:] or m["bias"].tensor.shape != shape[-1:]:
        return Skip("scale or bias is not one number per channel")
    if epsilon.size != 1:
        return Skip("epsilon is not one number")
    attrs: dict[str, Attr] = {"axis": -1, "epsilon": float(epsilon.item()), "stash_type": 1}
    return b.emit_many("LayerNormalization", m["x"], m["scale"], m["bias"], attrs=attrs, types=[m.root.output.type])[0]


@register
@dataclass(frozen=True)
class FuseLayerNorm:
    """Replace layer normalization subgraphs by one LayerNormalization node.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fuse-layer-norm"
    max_rounds: int = 2

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with LayerNormalization nodes."""
        return rewrite(graph, [fuse_layer_norm], ctx, max_rounds=self.max_rounds)
