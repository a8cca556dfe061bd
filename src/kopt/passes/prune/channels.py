"""Structured pruning as a pass: the smallest channels, heads and neurons go, and shapes shrink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.graph import Graph
from kopt.passes.base import PassContext, register
from kopt.passes.prune.cut import cut
from kopt.passes.prune.groups import dependencies
from kopt.passes.prune.record import recorded
from kopt.passes.prune.score import selected, weight_scores


@register
@dataclass(frozen=True)
class PruneChannels:
    """Cut the units of every dependency group that weigh least: W[K, C]  ==>  W[K', C'].

    Attributes:
        ratio: share of each group that goes, rounded so that the rest fills vectors.
    """

    name: ClassVar[str] = "prune-channels"
    ratio: float = 0.5

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The smaller graph.

        Raises:
            UsageError: not a share.
        """
        found = dependencies(graph)
        scores = {index: weight_scores(graph, group) for index, group in enumerate(found.groups)}
        removed = selected(found, scores, self.ratio)
        if not removed:
            return graph
        ctx.applied("cut", len(removed))
        return recorded(cut(found, removed), found, removed)
