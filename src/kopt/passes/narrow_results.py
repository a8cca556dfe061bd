"""Results that are only read in 16 bits are written in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.graph import KOPT, Graph, Node, Use, Value
from kopt.ir.mixed_types import RESIDUAL_INPUT
from kopt.ir.surgery import remove_dead
from kopt.ir.types import DType, TensorType
from kopt.passes.base import PassContext, register

_LAYERS = ("ProductMixed", "FusedConvNhwcMixed")


@register
@dataclass(frozen=True)
class NarrowResults:
    """ProductMixed  ==>  ProductMixed(narrow_result=1), where all readers are Casts to the 16-bit type, or layers that add it.

    The same for FusedConvNhwcMixed. The Casts go, and half of the bytes between layers with them. What is added to a later
    layer's sums is rounded once for that: sums themselves stay f32.
    """

    name: ClassVar[str] = "narrow-results"

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with narrow results; the same graph where nothing is only read in 16 bits."""
        narrowed: dict[Value, Value] = {}  # results and their Casts ==> the narrow result
        for node in graph.nodes:
            if node.domain == KOPT and node.op in _LAYERS and _only_read_narrow(graph, node):
                output = node.output
                narrow = Value(output.name, TensorType(_operand_type(node), output.tensor.shape))
                narrowed[output] = narrow
                casts = [use.node for use in graph.uses(output) if use.node is not None and use.node.op == "Cast"]
                narrowed.update((cast.output, narrow) for cast in casts)
                ctx.applied(f"{node.op} ==> narrow result")
        if not narrowed:
            return graph
        return remove_dead(graph.replace(nodes=tuple(_rewired(node, narrowed) for node in graph.nodes if not _is_merged(node, narrowed))))


def _operand_type(node: Node) -> DType:
    x = node.inputs[0]
    return DType.F32 if x is None else x.tensor.dtype


def _only_read_narrow(graph: Graph, node: Node) -> bool:
    """Whether every reader takes the result in the operands' type."""
    uses, kind = graph.uses(node.output), _operand_type(node)
    if node.output.tensor.dtype is not DType.F32 or not all(_takes(use, kind) for use in uses):
        return False
    casts = [use.node for use in uses if use.node is not None and use.node.op == "Cast"]
    return bool(uses) and all(cast.output not in graph.outputs for cast in casts)


def _takes(use: Use, kind: DType) -> bool:
    reader = use.node
    if reader is None:
        return False
    if reader.op == "Cast" and not reader.domain:
        return reader.attrs.get("to") == kind.onnx and use.index == 0
    return reader.domain == KOPT and reader.op in _LAYERS and use.index == RESIDUAL_INPUT and _operand_type(reader) is kind


def _is_merged(node: Node, narrowed: dict[Value, Value]) -> bool:
    return node.op == "Cast" and not node.domain and node.outputs[0] in narrowed


def _rewired(node: Node, narrowed: dict[Value, Value]) -> Node:
    inputs = tuple(None if value is None else narrowed.get(value, value) for value in node.inputs)
    if any(value in narrowed for value in node.outputs if value is not None):
        return node.replace(inputs=inputs, outputs=(narrowed[node.output],), attrs={**node.attrs, "narrow_result": 1})
    return node.replace(inputs=inputs)
