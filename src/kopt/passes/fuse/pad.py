"""Fold a constant Pad into the convolution or pool after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.ir.pattern import Match, Var, op
from kopt.ir.rewrite import Rule, rewrite
from kopt.passes.base import PassContext, Skip, register

_PAD = op(
    "Pad",
    Var("x"),
    Var("pads", constant=True),
    Var("value", constant=True, optional=True),
    Var("axes", constant=True, optional=True),
    as_="pad",
)
_WEIGHTS = {"Conv": (Var("w"), Var("bias", optional=True))}


def _spatial_pads(m: Match) -> tuple[int, ...] | Skip:
    """Pads of the spatial axes, begins then ends."""
    rank, pads = m["x"].tensor.rank, [int(p) for p in m.array("pads")]
    if rank is None or m.node("pad").attrs.get("mode", "constant") != "constant":
        return Skip("the pad is not constant, or of unknown rank")
    axes = [int(axis) % rank for axis in m.array("axes")] if m.has("axes") else list(range(rank))
    begins, ends = [0] * rank, [0] * rank
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        begins[axis], ends[axis] = begin, end
    if min(begins + ends, default=0) < 0 or any(begins[:2] + ends[:2]):
        return Skip("the pad crops, or pads the batch or channels")
    return (*begins[2:], *ends[2:])


def _declined(m: Match) -> Skip | None:
    layer = m.node("layer")
    value = float(m.array("value").item()) if m.has("value") else 0.0
    if value != (-np.inf if layer.op == "MaxPool" else 0.0):
        return Skip(f"the pad value {value} is not the one of {layer.op}")
    if layer.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or layer.attrs.get("ceil_mode"):
        return Skip("the layer chooses its own padding or rounds up")
    if layer.op == "AveragePool" and not layer.attrs.get("count_include_pad") and any(m.array("pads")):
        return Skip("the average leaves padding out")
    return None


def _pad_rule(name: str) -> Rule:
    def fold_pad(m: Match, b: Builder) -> Value | Skip:
        """Layer(Pad(x))   ==>   Layer(x) with larger pads."""
        layer, added, declined = m.node("layer"), _spatial_pads(m), _declined(m)
        if isinstance(added, Skip):
            return added
        if declined:
            return declined
        held = layer.attrs.get("pads") or (0,) * len(added)
        pads = tuple(int(a) + int(p) for a, p in zip(added, held, strict=True))  # type: ignore[arg-type]
        kernel = layer.attrs.get("kernel_shape")
        if name != "Conv" and any(pad >= size for pad, size in zip(pads, (*kernel, *kernel), strict=True)):  # type: ignore[misc]
            return Skip("a pad is not smaller than the window")
        if name == "MaxPool" and any(held):  # type: ignore[arg-type]
            return Skip("the pool pads too")
        attrs = {**layer.attrs, "pads": pads, "auto_pad": "NOTSET"}
        output = m.root.output
        return b.emit_many(name, m["x"], *layer.inputs[1:], attrs=attrs, types=[output.type], hint=output.name)[0]

    return Rule("fold_pad", op(name, _PAD, *_WEIGHTS.get(name, ()), as_="layer"), fold_pad)


@register
@dataclass(frozen=True)
class FoldPad:
    """Make a Pad the padding of the Conv, AveragePool (counting padding) or MaxPool (padded by -inf) after it.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fold-pad"
    max_rounds: int = 4

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with pads in layers."""
        return rewrite(graph, [_pad_rule(name) for name in ("Conv", "AveragePool", "MaxPool")], ctx, max_rounds=self.max_rounds)
