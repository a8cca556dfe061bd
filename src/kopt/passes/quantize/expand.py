"""Operators that hold their own scales become plain ones between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.errors import Location
from kopt.ir.builder import Builder
from kopt.ir.graph import MICROSOFT, Attr, Graph, Node, Value
from kopt.ir.pattern import Match, Var, op
from kopt.ir.rewrite import rewrite, rule
from kopt.ir.spec import default_attrs
from kopt.ir.surgery import rename_outputs, substitute
from kopt.ir.types import DType
from kopt.passes.base import PassContext, Skip, register

_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


@register
@dataclass(frozen=True)
class ExpandQuantized:
    """QLinearConv(x, w, b, scales)  ==>  Q(Conv(DQ(x), DQ(w), DQ(b))), and likewise others that hold their scales.

    Applies to QLinearConv, QLinearMatMul, MatMulInteger with the Cast and scales after it, and of com.microsoft to QGemm,
    QLinearAdd, QLinearMul, pools and MatMulIntegerToFloat; with channels first, constant weights, and scales per tensor or
    per output channel. One form is then left for what
    makes integer code of it.
    """

    name: ClassVar[str] = "expand-quantized"

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with plain operators; the same graph when none holds its own scales."""
        graph = rewrite(graph, (product_of_integers,), ctx, max_rounds=1)
        if not any(_expander(node) for node in graph.nodes):
            return graph
        builder = Builder.for_graph(graph)
        renamed: dict[Value, Value] = {}
        for node in graph.nodes:
            current = substitute(node, renamed)
            function = _expander(node)
            result = None if function is None else function(_Expansion(graph, builder, current))
            if result is None:
                builder.nodes.append(current)
                continue
            ctx.applied(f"{node.qualified_op} ==> Q, DQ")
            builder.nodes[-1] = rename_outputs(builder.nodes[-1], {result: node.output})
        return graph.replace(nodes=tuple(builder.nodes), constants={**graph.constants, **builder.constants})


class _Expansion:
    """One node being written anew."""

    def __init__(self, graph: Graph, builder: Builder, node: Node) -> None:
        self.graph, self.builder, self.node = graph, builder, node

    def holds(self, index: int) -> bool:
        """Whether an input is constant: with weights that are not, the operator's own integer form is the better one."""
        return self.node.input(index) in self.graph.constants

    @property
    def loc(self) -> Location:
        return self.node.loc

    def dequantized(self, first: int, axis: int = 1) -> Value:
        """Inputs ``first`` to ``first + 2`` (number, scale, zero point) as f32."""
        value, scale, zero = (self.node.input(first + k) for k in range(3))
        return self.emit("DequantizeLinear", (value, scale, zero), axis=axis)

    def quantized(self, value: Value, scale: Value | None, zero: Value | None) -> Value:
        """The result in 8 bits."""
        return self.emit("QuantizeLinear", (value, scale, zero))

    def bias(self, index: int, x_scale: Value | None, w_scale: Value | None) -> Value | None:
        """The i32 bias at ``index`` as f32, at the scale of the sums."""
        value = self.node.input(index)
        if value is None:
            return None
        return self.emit("DequantizeLinear", (value, self._bias_scale(x_scale, w_scale), None), axis=0)

    def _bias_scale(self, x_scale: Value | None, w_scale: Value | None) -> Value:
        one, other = self.graph.constant(x_scale), self.graph.constant(w_scale)
        if one is not None and other is not None:
            return self.builder.constant((one * other).astype(np.float32), "bias_scale")
        return self.emit("Mul", (x_scale, w_scale))

    def emit(self, op: str, inputs: tuple[Value | None, ...], **attrs: Attr) -> Value:
        """A standard operator."""
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        return self.builder.emit(op, *inputs, loc=self.loc, attrs=dict(attrs))

    def attrs(self, op: str, names: tuple[str, ...]) -> dict[str, Attr]:
        """Those of the plain operator."""
        return {**default_attrs(op), **{name: self.node.attrs[name] for name in names if name in self.node.attrs}}


def _conv(e: _Expansion) -> Value | None:
    node = e.node
    if node.attrs.get("channels_last") or not e.holds(3):
        return None
    inputs = (e.dequantized(0), e.dequantized(3, axis=0), e.bias(8, node.input(1), node.input(4)))
    return e.quantized(e.emit("Conv", inputs, **e.attrs("Conv", _CONV)), node.input(6), node.input(7))


def _matmul(e: _Expansion) -> Value | None:
    b = e.node.input(3)
    if not e.holds(3):
        return None
    axis = 1 if b is None or b.tensor.rank is None else max(b.tensor.rank - 1, 0)
    product = e.emit("MatMul", (e.dequantized(0, axis=0), e.dequantized(3, axis=axis)))
    return e.quantized(product, e.node.input(6), e.node.input(7))


def _gemm(e: _Expansion) -> Value | None:
    node, turned = e.node, bool(e.node.attrs.get("transB", 0))
    if not e.holds(3) or node.attrs.get("alpha", 1.0) != 1 or node.attrs.get("transA", 0):
        return None
    inputs = (e.dequantized(0), e.dequantized(3, axis=0 if turned else 1), e.bias(6, node.input(1), node.input(4)))
    product = e.emit("Gemm", inputs, transB=int(turned))
    return product if node.input(7) is None else e.quantized(product, node.input(7), node.input(8))


def _binary(e: _Expansion) -> Value | None:
    op = e.node.op.removeprefix("QLinear")
    return e.quantized(e.emit(op, (e.dequantized(0), e.dequantized(3))), e.node.input(6), e.node.input(7))


def _pool(e: _Expansion) -> Value | None:
    op = e.node.op.removeprefix("QLinear")
    if e.node.attrs.get("channels_last"):
        return None
    result = e.emit(op, (e.dequantized(0),), **e.attrs(op, _POOL if op == "AveragePool" else ()))
    return e.quantized(result, e.node.input(3), e.node.input(4))


def _to_float(e: _Expansion) -> Value | None:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (e.node.input(k) for k in range(7))
    if not e.holds(1) or a_scale is None or b_scale is None or b is None or len(b_scale.tensor.shape or ()) > 1:
        return None
    left = e.emit("DequantizeLinear", (a, a_scale, a_zero))
    product = e.emit("MatMul", (left, e.emit("DequantizeLinear", (b, b_scale, b_zero), axis=(b.tensor.rank or 2) - 1)))
    return product if bias is None else e.emit("Add", (product, bias))


_SUMS = op("MatMulInteger", Var("a"), Var("b", constant=True), Var("a_zero", optional=True), Var("b_zero", optional=True))


@rule(op("Mul", op("Cast", _SUMS, as_="cast"), op("Mul", Var("a_scale"), Var("b_scale"), commutative=True), commutative=True))
def product_of_integers(m: Match, b: Builder) -> Value | Skip:
    """Mul(Cast(MatMulInteger(a, b, a_zero, b_zero)), Mul(a_scale, b_scale))   ==>   MatMul(DQ(a), DQ(b)), b constant."""
    first, second = m["a_scale"], m["b_scale"]
    if first in m.graph.constants and second not in m.graph.constants:
        first, second = second, first
    columns = (m["b"].tensor.shape or ())[-1:]
    if m.node("cast").attrs["to"] != DType.F32.onnx or m["b"].tensor.rank != 2:
        return Skip("not a product with a matrix, in f32")
    if first.tensor.shape not in ((), (1,)) or second.tensor.shape not in ((), (1,), columns):
        return Skip("other scales than one per operand or column")
    if second not in m.graph.constants:
        return Skip("the weights' scale is not constant")
    left = b.emit("DequantizeLinear", *_present(m["a"], first, m.values["a_zero"]), hint="a_q")
    right = b.emit("DequantizeLinear", *_present(m["b"], second, m.values["b_zero"]), hint="b_q", attrs={"axis": 1})
    return b.emit("MatMul", left, right, hint=m.root.output.name)


def _present(*inputs: Value | None) -> tuple[Value | None, ...]:
    return inputs[:-1] if inputs[-1] is None else inputs


_EXPANDERS: dict[tuple[str, str], Callable[[_Expansion], Value | None]] = {
    ("", "QLinearConv"): _conv,
    (MICROSOFT, "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (MICROSOFT, "QGemm"): _gemm,
    (MICROSOFT, "QLinearAdd"): _binary,
    (MICROSOFT, "QLinearMul"): _binary,
    (MICROSOFT, "QLinearAveragePool"): _pool,
    (MICROSOFT, "QLinearGlobalAveragePool"): _pool,
    (MICROSOFT, "MatMulIntegerToFloat"): _to_float,
}


def _expander(node: Node) -> Callable[[_Expansion], Value | None] | None:
    return _EXPANDERS.get((node.domain, node.op))
