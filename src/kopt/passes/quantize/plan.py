"""What is quantized: layers with constant weights, and the values between them that can stay in 8 bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import DType, TensorType

PASSING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})
"""Operators that only move or choose elements of their first input: they work on 8 bits, at the same scale."""

AVERAGING = frozenset({"GlobalAveragePool", "AveragePool"})
"""Operators whose result is worth computing from 8 bits when the result is wanted in 8 bits."""

CLIPPING = frozenset({"Relu", "Clip"})
"""Operators that disappear in the limits of the 8 bits that follow."""


@dataclass(frozen=True)
class Layer:
    """A product or convolution with constant weights.

    Attributes:
        node: Conv, MatMul or Gemm.
        x: its activation.
        w: its weights, a constant.
        axis: of the weights, along which output channels lie.
        bias: a constant or None.
    """

    node: Node
    x: Value
    w: Value
    axis: int
    bias: Value | None = None

    @property
    def name(self) -> str:
        """The user's name of the node."""
        return self.node.name


@dataclass
class Plan:
    """What to quantize.

    Attributes:
        layers: by node.
        groups: value in 8 bits -> the value whose scale it shares (itself, where it shares none).
        readers: nodes that read those values in 8 bits.
    """

    layers: dict[Node, Layer] = field(default_factory=dict)
    groups: dict[Value, Value] = field(default_factory=dict)
    readers: set[Node] = field(default_factory=set)

    def root(self, value: Value) -> Value:
        """The value that stands for all that share its scale."""
        while self.groups[value] is not value:
            value = self.groups[value]
        return value


def layer_of(graph: Graph, node: Node) -> Layer | None:
    """The node as a layer, None where it is no product or convolution of f32 with constant weights."""
    if node.domain or node.op not in ("Conv", "MatMul", "Gemm") or len(node.inputs) < 2:
        return None
    x, w, bias = node.inputs[0], node.inputs[1], node.input(2)
    if x is None or w is None or w not in graph.constants or x in graph.constants or not is_f32(x) or not is_f32(w):
        return None
    if bias is not None and bias not in graph.constants:
        return None
    if not all(w.shape):
        return None
    if node.op == "Conv":
        return Layer(node, x, w, 0, bias)
    if len(w.shape) != 2:
        return None
    if node.op == "Gemm":
        plain = node.attrs["alpha"] == 1 and node.attrs["beta"] == 1 and not node.attrs["transA"]
        transposed = bool(node.attrs["transB"])
        columns = w.shape[0 if transposed else 1]
        if not plain or (bias is not None and bias.tensor.shape != (columns,)):
            return None
        return Layer(node, x, w, 0 if transposed else 1, bias)
    return Layer(node, x, w, 1)


def is_f32(value: Value) -> bool:
    """Whether a value is a tensor of f32."""
    return isinstance(value.type, TensorType) and value.type.dtype is DType.F32


def is_kept(node: Node, keep: Iterable[str]) -> bool:
    """Whether a node's operator or one of its names is among ``keep``."""
    return not {node.op, node.name, *node.loc.nodes}.isdisjoint(keep)


def plan(graph: Graph, keep: Iterable[str] = ()) -> Plan:
    """Layers that are not kept, their activations, and what lies between layers and can stay in 8 bits."""
    held, result = frozenset(keep), Plan()
    for node in graph.nodes:
        layer = layer_of(graph, node)
        if layer is not None and not is_kept(node, held):
            result.layers[node] = layer
    made = _made_by_layers(graph, result)
    pending = [layer.x for layer in result.layers.values()]
    result.readers |= set(result.layers)
    while pending:
        value = pending.pop()
        if value in result.groups:
            continue
        result.groups[value] = value
        pending += _upstream(graph, result, value, made)
    _share(graph, result)
    return result


def _made_by_layers(graph: Graph, found: Plan) -> set[Value]:
    """Results of layers, and of what only clips, moves or adds them."""
    made: set[Value] = set()
    for node in graph.nodes:
        if node.domain or not node.outputs or node.outputs[0] is None:
            continue
        inputs = [value for value in node.inputs if value is not None and value not in graph.constants]
        follows = node.op in PASSING | CLIPPING | AVERAGING | {"Add"} and bool(inputs) and all(value in made for value in inputs)
        if node in found.layers or follows:
            made.add(node.outputs[0])
    return made


def _upstream(graph: Graph, found: Plan, value: Value, made: set[Value]) -> list[Value]:
    """Values to have in 8 bits as well, since ``value`` is wanted so; their reader is noted."""
    node = graph.producer(value)
    while node is not None and not node.domain and node.op in CLIPPING:
        node = graph.producer(node.inputs[0])
    if node is None or node.domain or not node.inputs or node.inputs[0] is None:
        return []
    first = node.inputs[0]
    if node.op in PASSING and node.output is value and first not in graph.constants and is_f32(first):
        found.readers.add(node)
        return [first]
    if node.op in AVERAGING and first in made:
        found.readers.add(node)
        return [first]
    if node.op == "Add" and all(one in made for one in node.inputs):
        found.readers.add(node)
        return [one for one in node.inputs if one is not None]
    return []


def _share(graph: Graph, found: Plan) -> None:
    """What only moves elements has one scale for its input and result."""
    for node in graph.nodes:
        if node in found.readers and node.op in PASSING and node.output in found.groups and node.inputs[0] in found.groups:
            first = node.inputs[0]
            if first is not None and found.root(first) is not found.root(node.output):
                found.groups[found.root(node.output)] = found.root(first)
