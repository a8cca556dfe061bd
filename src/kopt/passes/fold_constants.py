"""Compute what does not depend on inputs, shapes included, where the result is not too large to store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.graph import Graph
from kopt.ir.surgery import remove_dead
from kopt.passes.base import PassContext, register
from kopt.passes.sweep import Limits, Sweep


@register
@dataclass(frozen=True)
class FoldConstants:
    """Compute constant nodes; make target shapes constant that are known but for one dimension.

    Chains of Shape, Gather, Concat and arithmetic are followed with symbolic dimensions, so that
    ``Reshape(x, Concat(Gather(Shape(x), 0), [-1]))`` becomes ``Reshape(x, [0, -1])``.

    Attributes:
        max_bytes: largest result that is stored.
        max_growth_bytes: how much larger than its inputs a result may be.
    """

    name: ClassVar[str] = "fold-constants"
    max_bytes: int = 64 << 20
    max_growth_bytes: int = 1 << 20

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with constant nodes replaced by constants."""
        result = Sweep(ctx, Limits(self.max_bytes, self.max_growth_bytes)).run(graph)
        return result if result is graph else remove_dead(result)
