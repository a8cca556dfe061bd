"""Masks that stand for minus infinity, brought within the range that narrow numbers have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.ir.surgery import remove_dead, substitute
from kopt.passes.base import PassContext, register


@register
@dataclass(frozen=True)
class ClampMasks:
    """A constant of -3.4e38  ==>  -1e4, where it is added or multiplied to scores before a Softmax, or chosen by Where.

    exp(-1e4) is 0 in f32 as exp(-3.4e38) is, but one such number would take the whole range of 8 bits, and overflow fp16.

    Attributes:
        limit: what masks become; numbers above -1e30 are no masks.
    """

    name: ClassVar[str] = "clamp-masks"
    limit: float = -1e4

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with clamped constants; the same graph when there are none, or no Softmax."""
        if not any(node.op in ("Softmax", "Attention") for node in graph.nodes):
            return graph
        builder = Builder.for_graph(graph)
        replaced: dict[Value, Value] = {}
        for value, constant in graph.constants.items():
            if constant.type.dtype.value != "f32" or value in graph.outputs:
                continue
            uses = [use.node for use in graph.uses(value)]
            if not uses or any(node is None or node.op not in ("Add", "Mul", "Where", "Sub") for node in uses):
                continue
            array = constant.array()
            if array.size and array.min() <= -1e30:
                clamped = np.maximum(array, np.float32(self.limit))
                replaced[value] = builder.constant(clamped, value.name)
                ctx.applied("mask clamped")
        if not replaced:
            return graph
        nodes = tuple(substitute(node, replaced) for node in graph.nodes)
        return remove_dead(graph.replace(nodes=nodes, constants={**graph.constants, **builder.constants}))
