"""Moving differences between features from activations into weights, so that one scale per tensor serves them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.surgery import remove_dead
from kopt.passes.base import PassContext, register
from kopt.passes.quantize.plan import Layer, is_kept, layer_of

_NORMS = {"LayerNormalization": (1, 2), "RMSNormalization": (1,)}
"""Operators that a factor per feature can be folded into, and the constants that take it."""


@register
@dataclass(frozen=True)
class SmoothFeatures:
    """MatMul(x, w)  ==>  MatMul(x / s, s * w), s per feature: where features differ much, or as ``strength`` says.

    The division is folded into the weights of a normalization before it where nothing else reads that; otherwise one Mul
    is added. Features of raw units (0.1 beside 2500) would vanish in one scale for all: there s is the largest magnitude.
    Elsewhere s = peak(x)^strength / peak(w)^(1 - strength). Source: SmoothQuant, arXiv 2211.10438.

    Attributes:
        peaks: largest magnitude per feature, by value name, as calibration found them.
        strengths: of values inside the graph, by name; those that are not named stay as they are.
        least_ratio: of the largest to the smallest peak of a graph input, from which on it is smoothed.
        keep: names of nodes, or of operators, that are not quantized, so need nothing.
    """

    name: ClassVar[str] = "smooth-features"
    peaks: Mapping[str, np.ndarray] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)
    least_ratio: float = 16.0
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with smoothed activations; the same graph when none needs it."""
        groups: dict[Value, list[Layer]] = {}
        for node in graph.nodes:
            layer = None if is_kept(node, self.keep) else layer_of(graph, node)
            if layer is not None and node.op != "Conv":
                groups.setdefault(layer.x, []).append(layer)
        factors = {value: factor for value, layers in groups.items() if (factor := self._factor(graph, value, layers)) is not None}
        if not factors:
            return graph
        ctx.applied("smoothed", len(factors))
        return _Writer(graph, groups, factors).write()

    def _factor(self, graph: Graph, value: Value, layers: list[Layer]) -> np.ndarray | None:
        """What features are divided by; None where they stay."""
        peak = self.peaks.get(value.name)
        if peak is None or not peak.size or peak.size != layers[0].w.shape[1 - layers[0].axis]:
            return None
        seen = peak[peak > 0]
        if value in graph.inputs and seen.size and seen.max() >= self.least_ratio * seen.min():
            return np.where(peak > 0, peak, np.float32(1)).astype(np.float32)
        strength = self.strengths.get(value.name)
        if strength is None:
            return None
        return smoothing(peak, [graph.constants[layer.w].array() for layer in layers], [layer.axis for layer in layers], strength)


def smoothing(peak: np.ndarray, weights: list[np.ndarray], axes: list[int], strength: float) -> np.ndarray:
    """S = peak(x)^strength / peak(w)^(1 - strength) per feature, around 1."""
    largest = np.max([np.abs(w).max(axis=axis) for w, axis in zip(weights, axes, strict=True)], axis=0)
    floor = np.float32(1e-5)
    factor = np.maximum(peak, floor) ** strength / np.maximum(largest, floor) ** (1 - strength)
    return np.asarray(np.clip(factor / np.exp(np.log(factor).mean()), 1e-4, 1e4), np.float32)


class _Writer:
    """One walk that writes divided activations and multiplied weights."""

    def __init__(self, graph: Graph, groups: Mapping[Value, list[Layer]], factors: Mapping[Value, np.ndarray]) -> None:
        self.graph, self.groups, self.factors = graph, groups, factors
        self.builder = Builder.for_graph(graph)
        self.divided: dict[Value, Value] = {}
        self.layers = {layer.node: layer for value in factors for layer in groups[value]}
        self.folded = {node: value for value in factors if (node := self._norm(value)) is not None}

    def write(self) -> Graph:
        """The whole graph."""
        for node in self.graph.nodes:
            layer = self.layers.get(node)
            if node in self.folded:
                self.builder.nodes.append(self._fold(node, self.factors[self.folded[node]]))
            elif layer is None:
                self.builder.nodes.append(node)
            else:
                self.builder.nodes.append(node.replace(inputs=(self._divided(layer), self._multiplied(layer), *node.inputs[2:])))
        constants = {**self.graph.constants, **self.builder.constants}
        return remove_dead(self.graph.replace(nodes=tuple(self.builder.nodes), constants=constants))

    def _norm(self, value: Value) -> Node | None:
        """The normalization that makes a value for these layers alone, with constants along the last axis."""
        node = self.graph.producer(value)
        if node is None or node.op not in _NORMS or node.domain or len(self.graph.uses(value)) != len(self.groups[value]):
            return None
        held = [node.input(k) for k in _NORMS[node.op] if node.input(k) is not None]
        fits = all(one in self.graph.constants and one is not None and one.tensor.shape == self.factors[value].shape for one in held)
        return node if fits and held else None

    def _fold(self, node: Node, factor: np.ndarray) -> Node:
        inputs = list(node.inputs)
        for k in _NORMS[node.op]:
            value = node.input(k)
            if value is not None:
                inputs[k] = self.builder.constant(self.graph.constants[value].array() / factor, value.name)
        return node.replace(inputs=tuple(inputs))

    def _divided(self, layer: Layer) -> Value:
        if layer.x in self.folded.values():
            return layer.x
        if layer.x not in self.divided:
            inverse = self.builder.constant(1 / self.factors[layer.x], f"{layer.x.name}_smoothing")
            self.divided[layer.x] = self.builder.emit("Mul", layer.x, inverse, hint=f"{layer.x.name}_smooth", loc=layer.node.loc)
        return self.divided[layer.x]

    def _multiplied(self, layer: Layer) -> Value:
        factor = self.factors[layer.x]
        array = self.graph.constants[layer.w].array() * (factor[None, :] if layer.axis == 0 else factor[:, None])
        return self.builder.constant(array.astype(np.float32), layer.w.name)
