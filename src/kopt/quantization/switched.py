"""One program for every choice of quantized layers: a number per layer switches its rounding on or off while it runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kopt.calibration import Feed
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import DType
from kopt.passes.quantize.numbers import affine, dequantize_weight, quantize_weight, weight_scales
from kopt.passes.quantize.plan import Layer, Plan
from kopt.quantization.observe import Observer

_FLAG = "kopt_in_8_bits"


class Switched:
    """A graph whose layers can be in 8 bits or not, call by call.

    Attributes:
        layers: in graph order; what a choice refers to.
    """

    def __init__(self, graph: Graph, found: Plan, ranges: dict[str, tuple[float, float]]) -> None:
        self.layers = tuple(found.layers.values())
        builder = Builder.for_graph(graph)
        self._flags = [builder.input(f"{_FLAG}_{k}", DType.F32, ()) for k in range(len(self.layers))]
        index = {layer.node: k for k, layer in enumerate(self.layers)}
        for node in graph.nodes:
            k = index.get(node)
            builder.nodes.append(node if k is None else _rounded(graph, builder, self.layers[k], self._flags[k], ranges))
        constants = {**graph.constants, **builder.constants}
        self._observer = Observer(graph.replace(inputs=(*graph.inputs, *self._flags), nodes=tuple(builder.nodes), constants=constants))

    def __call__(self, feed: Feed, chosen: Sequence[bool]) -> list[np.ndarray]:
        """Outputs with the chosen layers in 8 bits."""
        flags = {flag.name: np.asarray(one, np.float32) for flag, one in zip(self._flags, chosen, strict=True)}
        return self._observer({**feed, **flags})[0]


def _rounded(graph: Graph, builder: Builder, layer: Layer, flag: Value, ranges: dict[str, tuple[float, float]]) -> Node:
    """The layer reading x + flag * (round(x) - x), and its weights likewise."""

    def towards(value: Value, other: Value) -> Value:
        return builder.emit("Add", value, builder.emit("Mul", flag, builder.emit("Sub", other, value)))

    numbers = affine(*ranges[layer.x.name])
    scale, zero = builder.constant(np.asarray(numbers.scale)), builder.constant(np.asarray(numbers.zero_point))
    x = builder.emit("DequantizeLinear", builder.emit("QuantizeLinear", layer.x, scale, zero), scale, zero)
    array = graph.constants[layer.w].array()
    steps = weight_scales(array, layer.axis)
    w = builder.constant(dequantize_weight(quantize_weight(array, steps, layer.axis), steps, layer.axis))
    return layer.node.replace(inputs=(towards(layer.x, x), towards(layer.w, w), *layer.node.inputs[2:]))
