"""Channels-last layout: convolutions and pools become ``com.kopt`` NHWC operators, and the transposes around them vanish.

One forward sweep, linear in the graph (``kopt.passes.layout_sweep``): transposes sink through everything that has a rule
(``kopt.passes.layout_rules``), meet their inverse and cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.graph import MICROSOFT, ONNX, Attr, Graph, node_reads
from kopt.ir.surgery import all_names
from kopt.passes import layout_expand, layout_rules  # noqa: F401 (their rules register themselves)
from kopt.passes.base import PassContext, register
from kopt.passes.layout_sweep import Sweep

CONVOLUTIONS = frozenset({(ONNX, "Conv"), (MICROSOFT, "FusedConv"), (ONNX, "ConvTranspose")})
"""What makes a channels-last layout worth having."""


@register
@dataclass(frozen=True)
class LayoutNhwc:
    """Lay out the activations of convolutions and pools channels-last: Conv(x)  ==>  ConvNhwc(x) in ``com.kopt``.

    Transposes remain only where a value really is wanted in two layouts: at channels-first inputs and outputs of the
    model and before operators that have no rule. A graph without convolutions is returned as it is. Needs static shapes;
    nodes with symbolic ones keep the user's layout. Numbers change only by the rounding of BatchNormalization, written as Mul and Add.
    """

    name: ClassVar[str] = "layout-nhwc"

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph in channels-last form; inputs, outputs and their names stay as they are."""
        if not any((node.domain, node.op) in CONVOLUTIONS for _, node in graph.walk()):
            return graph
        return _lay_out(graph, ctx, all_names(graph))


def _lay_out(graph: Graph, ctx: PassContext, taken: set[str]) -> Graph:
    sweep = Sweep(graph, ctx, taken)
    for node in graph.nodes:
        bodies = {name: _bodies(attr, ctx, taken) for name, attr in node.attrs.items() if isinstance(attr, Graph | tuple)}
        changed = {name: attr for name, attr in bodies.items() if attr is not node.attrs[name]}
        sweep.visit(node.replace(attrs={**node.attrs, **changed}) if changed else node)
    for value in graph.outputs:
        sweep.pin(value)
    ctx.applied("transposes left", sweep.num_transposes)
    result = graph.replace(nodes=tuple(sweep.nodes), constants=sweep.constants)
    read = {value for node in result.nodes for value in node_reads(node)} | set(result.outputs)
    return result.replace(constants={value: held for value, held in result.constants.items() if value in read})


def _bodies(attr: Attr, ctx: PassContext, taken: set[str]) -> Attr:
    if isinstance(attr, Graph):
        return _lay_out(attr, ctx, taken)
    if isinstance(attr, tuple) and any(isinstance(item, Graph) for item in attr):
        return tuple(_lay_out(item, ctx, taken) for item in attr if isinstance(item, Graph))
    return attr
