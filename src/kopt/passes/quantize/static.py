"""Static 8-bit quantization: QuantizeLinear and DequantizeLinear around layers, at scales found by calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.surgery import remove_dead
from kopt.passes.base import PassContext, register
from kopt.passes.quantize.numbers import Affine, affine, quantize_bias, quantize_weight, weight_scales
from kopt.passes.quantize.plan import Layer, Plan, plan


@register
@dataclass(frozen=True)
class QuantizeStatic:
    """Conv(x, w, b)  ==>  Conv(DQ(Q(x)), DQ(w8), DQ(b32)): u8 activations per tensor, i8 weights per output channel.

    Applies to Conv, Gemm and MatMul with constant f32 weights. Between them values stay in 8 bits through pools, reshapes
    and sums of layers' results. Everything else, graph inputs and outputs stay f32.

    Attributes:
        ranges: smallest and largest number by value name, as calibration found them.
        keep: names of nodes, or of operators, that stay f32.
        shifts: what a layer loses on average per output channel, by node name; added to biases, those in an Add behind a
            MatMul included.
        codes: weights in i8 by node name, at their usual scales; of layers that are not named they are rounded to the nearest.
    """

    name: ClassVar[str] = "quantize-static"
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    shifts: Mapping[str, np.ndarray] = field(default_factory=dict)
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with quantized layers; the same graph when there are none."""
        found = plan(graph, (*self.keep, *self._unknown(graph, ctx)))
        if not found.layers:
            return graph
        return _Writer(graph, found, group_ranges(found, self.ranges), self, ctx).write()

    def _unknown(self, graph: Graph, ctx: PassContext) -> list[str]:
        """Layers whose activation calibration did not see."""
        names = []
        for layer in plan(graph, self.keep).layers.values():
            if layer.x.name not in self.ranges:
                ctx.skip("quantize", layer.node.loc, f"no range for '{layer.x.name}'")
                names.append(layer.name)
        return names


def group_ranges(found: Plan, ranges: Mapping[str, tuple[float, float]]) -> dict[Value, Affine]:
    """The mapping of each root: over the ranges of all values that share it. Values without one are absent."""
    merged: dict[Value, tuple[float, float]] = {}
    for value in found.groups:
        if value.name in ranges:
            low, high = ranges[value.name]
            root = found.root(value)
            before = merged.get(root, (low, high))
            merged[root] = (min(low, before[0]), max(high, before[1]))
    return {root: affine(*limits) for root, limits in merged.items()}


class _Writer:
    """One forward walk that writes the quantized graph."""

    def __init__(self, graph: Graph, found: Plan, numbers: Mapping[Value, Affine], options: QuantizeStatic, ctx: PassContext) -> None:
        self.graph, self.found, self.numbers, self.ctx = graph, found, numbers, ctx
        self.shifts, self.codes = options.shifts, options.codes
        self.builder = Builder.for_graph(graph)
        self._held: dict[Value, tuple[Value, Value]] = {}
        self._dequantized: dict[Value, Value] = {}

    def write(self) -> Graph:
        """The whole graph."""
        for node in self.graph.nodes:
            self._visit(node)
        constants = {**self.graph.constants, **self.builder.constants}
        return remove_dead(self.graph.replace(nodes=tuple(self.builder.nodes), constants=constants))

    def _visit(self, node: Node) -> None:
        layer = self.found.layers.get(node)
        if node not in self.found.readers:
            self.builder.nodes.append(self._corrected(node))
            return
        inputs = list(node.inputs)
        for index, value in enumerate(inputs):
            if value in self.found.groups and value is not None and self.found.root(value) in self.numbers:
                inputs[index] = self._in_eight_bits(value, node)
        if layer is not None:
            inputs[1:] = self._weights(layer, node)
            self.ctx.applied(f"{node.op} in 8 bits")
        self.builder.nodes.append(node.replace(inputs=tuple(inputs)))

    def _corrected(self, node: Node) -> Node:
        """The Add of a bias behind a MatMul with what the product loses on average added; any other node as it is."""
        if node.op != "Add" or node.domain or len(node.inputs) != 2:
            return node
        for k, value in enumerate(node.inputs):
            layer, bias = self.found.layers.get(self.graph.producer(value)), node.inputs[1 - k]  # type: ignore[arg-type]
            shift = None if layer is None else self.shifts.get(layer.name)
            if layer is None or shift is None or layer.node.op != "MatMul" or value is None or len(self.graph.uses(value)) != 1:
                continue
            held = self.graph.constant(bias)
            if held is not None and bias is not None and held.shape[-1:] == shift.shape and held.size == shift.size:
                inputs = list(node.inputs)
                inputs[1 - k] = self.builder.constant((held + shift).astype(np.float32), bias.name)
                return node.replace(inputs=tuple(inputs))
        return node

    def _in_eight_bits(self, value: Value, node: Node) -> Value:
        """``value`` after QuantizeLinear and DequantizeLinear, one pair for all readers."""
        if value not in self._dequantized:
            root = self.found.root(value)
            if root not in self._held:
                chosen = self.numbers[root]
                scale = self.builder.constant(np.asarray(chosen.scale, np.float32), f"{root.name}_scale")
                self._held[root] = (scale, self.builder.constant(np.asarray(chosen.zero_point, np.uint8), f"{root.name}_zero_point"))
            producer = self.graph.producer(value)
            loc = (producer or node).loc
            narrow = self.builder.emit("QuantizeLinear", value, *self._held[root], hint=f"{value.name}_u8", loc=loc)
            self._dequantized[value] = self.builder.emit("DequantizeLinear", narrow, *self._held[root], hint=f"{value.name}_q", loc=loc)
        return self._dequantized[value]

    def _weights(self, layer: Layer, node: Node) -> list[Value | None]:
        """The layer's inputs after the activation: weights, and the bias where it has one."""
        array = self.graph.constants[layer.w].array()
        scale = weight_scales(array, layer.axis)
        held = self.builder.constant(scale, f"{layer.w.name}_scale")
        codes = self.codes.get(layer.name)
        narrow = self.builder.constant(quantize_weight(array, scale, layer.axis) if codes is None else codes, f"{layer.w.name}_i8")
        attrs = {"axis": layer.axis}
        weight = self.builder.emit("DequantizeLinear", narrow, held, hint=f"{layer.w.name}_q", loc=node.loc, attrs=attrs)
        bias = self._bias(layer)
        if bias is None:
            return [weight, *node.inputs[2:]]
        name = f"{layer.name}_bias" if layer.bias is None else layer.bias.name
        factor = scale * self.numbers[self.found.root(layer.x)].scale
        wide = quantize_bias(bias, factor)
        if wide is None:
            return [weight, self.builder.constant(bias, name)]
        unit = self.builder.constant(factor.astype(np.float32), f"{name}_scale")
        whole = self.builder.constant(wide, f"{name}_i32")
        return [weight, self.builder.emit("DequantizeLinear", whole, unit, hint=f"{name}_q", loc=node.loc, attrs={"axis": 0})]

    def _bias(self, layer: Layer) -> np.ndarray | None:
        """The bias with what is lost on average added, None where there is neither."""
        held = None if layer.bias is None else self.graph.constants[layer.bias].array()
        shift = None if layer.node.op == "MatMul" else self.shifts.get(layer.name)
        if held is None or shift is None:
            return shift if held is None else held
        return np.asarray(held + shift, np.float32)
