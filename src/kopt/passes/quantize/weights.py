"""Weights in 8 or 4 bits with f32 arithmetic: files shrink, numbers are rounded by what they do to a layer's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import ml_dtypes
import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.surgery import remove_dead, substitute
from kopt.passes.base import PassContext, register
from kopt.passes.quantize.numbers import quantize_weight, weight_scales
from kopt.passes.quantize.plan import Layer, is_f32, is_kept, layer_of
from kopt.passes.quantize.rounding import compensated, grouped, spread_scales


@register
@dataclass(frozen=True)
class QuantizeWeights:
    """MatMul(x, w)  ==>  MatMul(x, DQ(w)): i8 per output channel, or i4 per group of inputs.

    Applies to Conv, Gemm and MatMul with constant f32 weights, to Gather of an f32 table (8 bits per row), and to nothing
    smaller than ``min_elements``. Convolutions stay at 8 bits, which their few weights per group need.

    Attributes:
        bits: 8 or 4.
        group: inputs that share a scale, with 4 bits.
        keep: names of nodes, or of operators, that stay f32.
        min_elements: weights below stay f32.
        moments: per layer, the second moments x^T x of its inputs. With them rounding errors are made up for by the
            weights not yet rounded (as GPTQ does), else every weight is rounded to the nearest.
    """

    name: ClassVar[str] = "quantize-weights"
    bits: int = 8
    group: int = 32
    keep: tuple[str, ...] = ()
    min_elements: int = 256
    moments: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option out of range.
        """
        if self.bits not in (4, 8) or self.group < 2:
            raise ValueError("bits is 4 or 8, group at least 2")

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with narrow weights; the same graph when there are none to narrow."""
        builder = Builder.for_graph(graph)
        made: dict[tuple[Value, int, int], Value] = {}
        for node in graph.nodes:
            found = None if is_kept(node, self.keep) else _stored(graph, node)
            if found is None or found[1].tensor.static_shape == () or graph.constants[found[1]].type.size < self.min_elements:
                builder.nodes.append(node)
                continue
            position, value, axis, layer = found
            bits = self.bits if layer is not None and node.op != "Conv" else 8
            key = (value, axis, bits)
            if key not in made:
                array = graph.constants[value].array()
                made[key] = self._narrow(builder, node, value, array, axis, bits)
                ctx.applied(f"{node.op} weights in {bits} bits")
            builder.nodes.append(substitute(node, {value: made[key]}) if node.inputs[position] is value else node)
        if not made:
            return graph
        return remove_dead(graph.replace(nodes=tuple(builder.nodes), constants={**graph.constants, **builder.constants}))

    def _narrow(self, builder: Builder, node: Node, value: Value, array: np.ndarray, axis: int, bits: int) -> Value:
        """The weights behind a DequantizeLinear."""
        if bits == 8:
            scale, seen = weight_scales(array, axis), self.moments.get(node.name) if node.op in ("MatMul", "Gemm") else None
            codes = quantize_weight(array, scale, axis) if seen is None else compensated(array, axis, scale, seen)
            held = builder.constant(codes, f"{value.name}_i8")
            inputs, attrs = (held, builder.constant(scale, f"{value.name}_scale")), {"axis": axis}
        else:
            group = min(self.group, array.shape[1 - axis])
            codes, scales = grouped(array, 1 - axis, group, self.moments.get(node.name))
            held = builder.constant(codes.astype(ml_dtypes.int4), f"{value.name}_i4")
            inputs = (held, builder.constant(scales, f"{value.name}_scale"))
            attrs = {"axis": 1 - axis, "block_size": group}
        return builder.emit("DequantizeLinear", *inputs, hint=f"{value.name}_q", loc=node.loc, attrs=dict(attrs))


def _stored(graph: Graph, node: Node) -> tuple[int, Value, int, Layer | None] | None:
    """The position and value of the weights a node reads, and the axis with one scale per slice."""
    layer = layer_of(graph, node)
    if layer is not None:
        return 1, layer.w, layer.axis, layer
    table = node.inputs[0] if node.inputs else None
    if node.op == "Gather" and not node.domain and table in graph.constants and table is not None and is_f32(table):
        return (0, table, 0, None) if table.tensor.rank == 2 and node.attrs["axis"] == 0 else None
    return None


@register
@dataclass(frozen=True)
class DequantizeWeights:
    """DQ(constant)  ==>  a constant of floats, for backends without arithmetic on it; after ``integerise`` only such are left."""

    name: ClassVar[str] = "dequantize-weights"

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph without DequantizeLinear of constants, but for those that are read by rows."""
        replaced: dict[Value, Value] = {}
        builder, nodes = Builder.for_graph(graph), []
        for node in graph.nodes:
            values = [graph.constant(value) for value in node.inputs]
            looked_up = (
                all(use.node is not None and use.node.op == "Gather" for use in graph.uses(node.output)) if node.outputs[0] else True
            )
            if (
                node.op != "DequantizeLinear"
                or node.domain
                or any(value is None for value in values)
                or looked_up
                or node.output in graph.outputs
            ):
                nodes.append(substitute(node, replaced))
                continue
            replaced[node.output] = builder.constant(_floats(node, [value for value in values if value is not None]), node.output.name)
            ctx.applied("DQ(constant) ==> constant")
        if not replaced:
            return graph
        return remove_dead(graph.replace(nodes=tuple(nodes), constants={**graph.constants, **builder.constants}))


def _floats(node: Node, values: list[np.ndarray]) -> np.ndarray:
    """What DequantizeLinear computes. Source: ONNX DequantizeLinear-25."""
    x, scale, axis, block = values[0], values[1], node.attrs.get("axis", 1), node.attrs.get("block_size", 0)
    if not isinstance(axis, int) or not isinstance(block, int):
        raise TypeError(f"{node.name}: axis and block_size are whole numbers")
    wide = x.astype(np.float32)
    if len(values) > 2:
        wide = wide - spread_scales(values[2].astype(np.float32), x.shape, axis, block)
    return np.asarray((wide * spread_scales(scale.astype(np.float32), x.shape, axis, block)).astype(node.output.tensor.dtype.numpy))
