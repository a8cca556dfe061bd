"""Integer code for quantized layers: what lies between DequantizeLinear and QuantizeLinear becomes one operator on 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.errors import Location
from kopt.ir.builder import Builder
from kopt.ir.graph import KOPT, Attr, Graph, Node, Value
from kopt.ir.surgery import Names, remove_dead, rename_outputs, substitute
from kopt.ir.types import DType, TensorType
from kopt.passes.base import PassContext, register
from kopt.passes.quantize.integers import Narrow, constant_f32, dequantized, narrow, only_reader, requantized, saturates, weight

_MOVING = frozenset(
    {("", op) for op in ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")} | {(KOPT, "MaxPoolNhwc")}
)
_ACTIVATIONS = frozenset({"Relu", "Clip", "Gelu", "Tanh", "Sigmoid", "LeakyRelu"})


@register
@dataclass(frozen=True)
class Integerise:
    """Q(Relu(Add(ConvNhwc(DQ(x), DQ(w), b), DQ(r))))  ==>  Int8ConvNhwc(x, w, scales, b, r, activation) in ``com.kopt``.

    Likewise MatMul and Gemm as Int8Product. Needs u8 or i8 activations with one scale and constant i8 weights with one
    scale per output channel or for all; zero points end up in the sums, scale, bias, residual, activation and rounding
    back to 8 bits in one step. Operators that only move elements then work on 8 bits. A pair of QuantizeLinear and
    DequantizeLinear between a layer and the sum or activation after it is left out: the number is exact there.

    Attributes:
        keep: names of nodes, or of operators, that stay as they are.
    """

    name: ClassVar[str] = "integerise"
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with integer operators; the same graph when nothing in it is quantized."""
        if not any(node.op in ("DequantizeLinear", "MatMulInteger") for node in graph.nodes):
            return graph
        graph = _move_in_eight_bits(graph, ctx)
        taken: set[Node] = set()
        # Of two layers that are added the one computed last takes the sum: the other's result is there by then.
        chains = [chain for node in reversed(graph.nodes) if (chain := self._chain(graph, node, ctx, taken))]
        ends = {chain.last: chain for chain in chains}
        builder = Builder(Names.of(graph))
        for node in graph.nodes:
            chain = ends.get(node)
            if chain is None:
                builder.nodes.append(node)
                continue
            made = chain.emit(builder)
            builder.nodes[-1] = rename_outputs(builder.nodes[-1], {made: chain.last.output})
            ctx.applied(f"{chain.node.op} ==> {builder.nodes[-1].op}")
        return remove_dead(graph.replace(nodes=tuple(builder.nodes), constants={**graph.constants, **builder.constants}))

    def _chain(self, graph: Graph, node: Node, ctx: PassContext, taken: set[Node]) -> _Chain | None:
        if {node.op, node.name, *node.loc.nodes} & set(self.keep):
            return None
        found = _layer(graph, node)
        if isinstance(found, str):
            ctx.skip("integerise", node.loc, found)
            return None
        return found.extended(taken) if found else None


@dataclass
class _Chain:
    """A layer and what is computed with its result, up to and including ``last``."""

    graph: Graph
    node: Node
    last: Node
    x: Narrow
    w: np.ndarray
    w_scale: np.ndarray
    op: str
    attrs: dict[str, Attr]
    bias: np.ndarray | None = None
    residual: Value | Narrow | None = None
    activated: bool = False
    y: tuple[Value, Value | None] | None = None

    @property
    def columns(self) -> int:
        return int(self.w.shape[-1 if self.op == "Int8Product" else 0])

    def extended(self, taken: set[Node]) -> _Chain:
        """The chain with all that follows and fits."""
        while self.y is None:
            reader = only_reader(self.graph, self.last.output)
            if reader is None or reader.domain or not self._take(reader, taken):
                break
        taken.add(self.last)
        return self

    def _take(self, node: Node, taken: set[Node]) -> bool:
        """Make ``node`` part of the chain, where it can be."""
        if node in taken:
            return False
        if node.op == "Add" and not self.activated:
            return self._add(node, taken)
        if node.op in _ACTIVATIONS and not self.activated and node.inputs[0] is self.last.output:
            found = _activation(self.graph, node)
            if found is None:
                return False
            self.attrs |= found
            self.activated, self.last = True, node
            return True
        if node.op != "QuantizeLinear" or node.inputs[0] is not self.last.output:
            return False
        found_y = requantized(node)
        if found_y is None:
            return False
        after = self._past(node, found_y)
        if after is not None and not self.activated and self._take_through(after, taken):
            return True
        self.y, self.last = found_y, node
        return True

    def _past(self, node: Node, found: tuple[Value, Value | None]) -> Node | None:
        """The DequantizeLinear that undoes ``node`` at once, where leaving both out changes nothing but a rounding."""
        reader = only_reader(self.graph, node.output)
        back = narrow(self.graph, reader.output) if reader is not None and reader.op == "DequantizeLinear" else None
        same = back is not None and _same(self.graph, back.scale, found[0]) and _same(self.graph, back.zero_point, found[1])
        return reader if same and not saturates(self.graph, found[1]) else None

    def _take_through(self, after: Node, taken: set[Node]) -> bool:
        """Take the sum or activation behind a pair that is left out."""
        reader, before = only_reader(self.graph, after.output), self.last
        if reader is None or reader.domain or reader.op not in _ACTIVATIONS | {"Add"}:
            return False
        self.last = after
        if self._take(reader, taken):
            return True
        self.last = before
        return False

    def _add(self, node: Node, taken: set[Node]) -> bool:
        """Take a sum with a constant per channel, or with something of the result's shape."""
        others = [value for value in node.inputs if value is not self.last.output]
        if len(others) != 1 or others[0] is None or others[0].tensor.dtype is not DType.F32:
            return False
        other, shape = others[0], node.output.tensor.shape
        constant = constant_f32(self.graph, other)
        if constant is not None and self.residual is None:
            last_axis = constant.shape[-1:] == (self.columns,) and constant.size == self.columns
            if not last_axis or (constant.ndim > len(shape or ())):
                return False
            vector = constant.reshape(-1)
            self.bias, self.last = vector if self.bias is None else self.bias + vector, node
            taken.add(node)
            return True
        if self.residual is not None or shape is None or other.tensor.shape != shape or self.last.output.tensor.shape != shape:
            return False
        self.residual, self.last = narrow(self.graph, other) or other, node
        taken.add(node)
        return True

    def emit(self, builder: Builder) -> Value:
        """The integer operator."""
        w = builder.constant(np.ascontiguousarray(self.w), f"{self.node.name}_w")
        bias = None if self.bias is None else builder.constant(self.bias.astype(np.float32), f"{self.node.name}_bias")
        held = self.residual
        added, scale, zero = (held.value, held.scale, held.zero_point) if isinstance(held, Narrow) else (held, None, None)
        y_scale, y_zero = self.y or (None, None)
        w_scale = builder.constant(self.w_scale, f"{self.node.name}_w_scale")
        inputs = [self.x.value, w, self.x.scale, self.x.zero_point, w_scale, bias, added, y_scale, y_zero, scale, zero]
        while inputs[-1] is None:
            inputs.pop()
        loc: Location = self.node.loc.merge(self.last.loc)
        output = self.last.output
        return builder.emit_many(self.op, *inputs, domain=KOPT, attrs=self.attrs, loc=loc, types=[output.type], hint=output.name)[0]


def _layer(graph: Graph, node: Node) -> _Chain | str | None:
    """The chain that starts at a node; why it does not; or None where the node is no layer or not quantized."""
    if (node.domain, node.op) not in ((KOPT, "ConvNhwc"), ("", "MatMul"), ("", "Gemm")):
        return None
    x = narrow(graph, node.inputs[0])
    if x is None or node.output.tensor.dtype is not DType.F32:
        return None
    turned = node.op == "Gemm" and bool(node.attrs["transB"])
    axis = 0 if turned or node.op == "ConvNhwc" else 1
    right = node.inputs[1]
    if node.op != "ConvNhwc" and (right is None or right.tensor.rank != 2 or (x.value.tensor.rank or 0) < 2):
        return "its right side is no matrix"
    w = weight(graph, right, axis)
    if isinstance(w, str):
        return w
    if node.op == "Gemm" and (node.attrs["alpha"] != 1 or node.attrs["beta"] != 1 or node.attrs["transA"]):
        return "it scales or transposes its operands"
    bias = constant_f32(graph, node.input(2))
    if node.input(2) is not None and (bias is None or bias.shape != (w.array.shape[axis],)):
        return "its bias is not one constant per channel"
    if node.op == "ConvNhwc":
        return _Chain(graph, node, node, x, w.array, w.scale, "Int8ConvNhwc", {**node.attrs, "activation": ""}, bias)
    matrix = w.array.T if turned else w.array
    return _Chain(graph, node, node, x, matrix, w.scale, "Int8Product", {"activation": ""}, bias)


def _activation(graph: Graph, node: Node) -> dict[str, Attr] | None:
    """Attributes of the activation that ``node`` is; None where its limits are no constants."""
    if node.op == "Gelu":
        return {"activation": "GeluTanh" if node.attrs["approximate"] == "tanh" else "Gelu"}
    if node.op == "LeakyRelu":
        return {"activation": "LeakyRelu", "activation_params": (float(node.attrs["alpha"]),)}  # type: ignore[arg-type]
    if node.op != "Clip":
        return {"activation": node.op}
    limits = []
    for value, missing in zip((*node.inputs[1:], None, None), (float("-inf"), float("inf")), strict=False):
        found = graph.constant(value)
        if value is not None and found is None:
            return None
        limits.append(missing if found is None else float(found.item()))
    return {"activation": "Clip", "activation_params": tuple(limits)}


def _move_in_eight_bits(graph: Graph, ctx: PassContext) -> Graph:
    """MaxPool(DQ(x))  ==>  DQ(MaxPool(x)), likewise for what only moves elements; and Q(DQ(x)) at one scale  ==>  x."""
    builder = Builder(Names.of(graph))
    held: dict[Value, Narrow] = {}
    replaced: dict[Value, Value] = {}
    moved = 0
    for old in graph.nodes:
        node = substitute(old, replaced)
        first = node.inputs[0] if node.inputs else None
        x = held.get(first) if first is not None else None
        if (found := dequantized(graph, node)) is not None:
            held[node.output] = found
        y = requantized(node)
        if x is None or node.outputs[0] is None:
            builder.nodes.append(node)
        elif (node.domain, node.op) in _MOVING and not any(node.outputs[1:]):
            dtype = x.value.tensor.dtype
            value = Value(builder.fresh(f"{node.output.name}_{dtype}"), TensorType(dtype, node.output.tensor.shape))
            builder.nodes.append(node.replace(inputs=(x.value, *node.inputs[1:]), outputs=(value,)))
            held[node.output] = Narrow(value, x.scale, x.zero_point)
            back = (value, x.scale) if x.zero_point is None else (value, x.scale, x.zero_point)
            wide = builder.emit("DequantizeLinear", *back, loc=node.loc)
            builder.nodes[-1] = rename_outputs(builder.nodes[-1], {wide: node.output})
            ctx.applied(f"{node.op} in 8 bits")
            moved += 1
        elif y and node.output not in graph.outputs and _undone(graph, x, node, y):
            replaced[node.output] = x.value
            moved += 1
        else:
            builder.nodes.append(node)
    return remove_dead(graph.replace(nodes=tuple(builder.nodes))) if moved else graph


def _undone(graph: Graph, x: Narrow, node: Node, y: tuple[Value, Value | None]) -> bool:
    """Whether quantizing what was dequantized gives the very same numbers."""
    return x.value.tensor.dtype is node.output.tensor.dtype and _same(graph, x.scale, y[0]) and _same(graph, x.zero_point, y[1])


def _same(graph: Graph, a: Value | None, b: Value | None) -> bool:
    """Whether two scalars are the same number."""
    if a is b:
        return True
    x, y = graph.constant(a), graph.constant(b)
    return x is not None and y is not None and x.dtype == y.dtype and bool(x.item() == y.item())
