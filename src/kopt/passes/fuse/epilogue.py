"""Fuse what follows a product or convolution with constant weights into it, for kernels that apply it to results in registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.builder import Builder
from kopt.ir.graph import KOPT, Attr, Graph, Node, Value
from kopt.ir.pattern import Match, Var, op
from kopt.ir.rewrite import Rule, rewrite, rule
from kopt.passes.base import PassContext, Skip, register

_LAYERS = ("Product", "FusedConvNhwc")
_X, _W = Var("x"), Var("w", constant=True)
_BIAS, _RESIDUAL = Var("bias", optional=True), Var("residual", optional=True)


def _is_f32(value: Value) -> bool:
    return value.tensor.dtype.value == "f32"


def _emit(m: Match, b: Builder, op_name: str, inputs: tuple[Value | None, ...], attrs: dict[str, Attr]) -> Value:
    output = m.root.output
    return b.emit_many(op_name, *inputs, attrs=attrs, domain=KOPT, types=[output.type], hint=output.name)[0]


@rule(op("MatMul", _X, _W))
def product_of_matmul(m: Match, b: Builder) -> Value | Skip:
    """MatMul(x, w)   ==>   Product(x, w), for a constant matrix w."""
    if not _is_f32(m["w"]) or m["w"].tensor.rank != 2 or (m["x"].tensor.rank or 0) < 2:
        return Skip("not a product with an f32 matrix")
    return _emit(m, b, "Product", (m["x"], m["w"]), {"transB": 0, "activation": ""})


@rule(op("MatMul", _X, op("Transpose", _W, as_="turn")))
def product_of_turned_weights(m: Match, b: Builder) -> Value | Skip:
    """MatMul(x, Transpose(w))   ==>   Product(x, w, transB=1), for a constant matrix w that was too large to fold."""
    if not _is_f32(m["w"]) or m["w"].tensor.rank != 2 or (m["x"].tensor.rank or 0) < 2:
        return Skip("not a product with an f32 matrix")
    if m.node("turn").attrs.get("perm") not in (None, (1, 0)):
        return Skip("the weights are not turned")
    return _emit(m, b, "Product", (m["x"], m["w"]), {"transB": 1, "activation": ""})


@rule(op("Gemm", _X, _W, _BIAS))
def product_of_gemm(m: Match, b: Builder) -> Value | Skip:
    """Gemm(x, w, bias)   ==>   Product(x, w, bias), one bias per column."""
    attrs = m.root.attrs
    if not _is_f32(m["w"]) or attrs["transA"] or attrs["alpha"] != 1 or attrs["beta"] != 1:
        return Skip("not a plain product with an f32 matrix")
    columns = (m["w"].tensor.shape or (0, 0))[0 if attrs["transB"] else 1]
    if m.has("bias") and m["bias"].tensor.shape != (columns,):
        return Skip("the bias is not one number per column")
    return _emit(m, b, "Product", (m["x"], m["w"], m.values["bias"]), {"transB": attrs["transB"], "activation": ""})


@rule(op("ConvNhwc", _X, _W, _BIAS, domain=KOPT))
def fused_convolution(m: Match, b: Builder) -> Value | Skip:
    """ConvNhwc(x, w, bias)   ==>   FusedConvNhwc(x, w, bias)."""
    if not _is_f32(m["w"]):
        return Skip("weights are not f32")
    return _emit(m, b, "FusedConvNhwc", (m["x"], m["w"], m.values["bias"]), {**m.root.attrs, "activation": ""})


@rule(op("Add", op("Product", _X, _W, as_="layer", domain=KOPT), Var("added", constant=True), commutative=True))
def product_bias(m: Match, b: Builder) -> Value | Skip:
    """Product(x, w) + constant   ==>   Product(x, w, constant), one number per column."""
    layer, added = m.node("layer"), m["added"]
    if layer.attrs["activation"] or added.tensor.shape != (layer.output.tensor.shape or ())[-1:]:
        return Skip("the addend is not one number per column")
    return _emit(m, b, "Product", (m["x"], m["w"], added), dict(layer.attrs))


def _residual_rule(op_name: str) -> Rule:
    def add_residual(m: Match, b: Builder) -> Value | Skip:
        """Layer(x, w, bias) + y   ==>   Layer(x, w, bias, y), where y has the result's shape."""
        layer, added = m.node("layer"), m["added"]
        if layer.attrs["activation"] or added.tensor.shape != layer.output.tensor.shape or not _is_f32(added):
            return Skip("the addend has another shape, or an activation comes first")
        if added is layer.output:
            return Skip("the sum of a result with itself would compute it twice")
        return _emit(m, b, op_name, (m["x"], m["w"], m.values["bias"], added), dict(layer.attrs))

    layer = op(op_name, _X, _W, _BIAS, as_="layer", domain=KOPT)
    return Rule("add_residual", op("Add", layer, Var("added"), commutative=True), add_residual)


def _activation_rule(op_name: str, activation: str) -> Rule:
    def fuse_activation(m: Match, b: Builder) -> Value | Skip:
        """Activation(Layer(x, w, bias, residual))   ==>   Layer(x, w, bias, residual, activation=...)."""
        layer = m.node("layer")
        found = _activation(m.graph, m.root)
        if layer.attrs["activation"] or found is None:
            return Skip("an activation is there already, or its limits are unknown")
        return _emit(m, b, op_name, layer.inputs, {**layer.attrs, **found})

    layer = op(op_name, _X, _W, _BIAS, _RESIDUAL, as_="layer", domain=KOPT)
    limits = (Var("low", optional=True), Var("high", optional=True)) if activation == "Clip" else ()
    return Rule("fuse_activation", op(activation, layer, *limits), fuse_activation)


def _activation(graph: Graph, node: Node) -> dict[str, Attr] | None:
    """Attributes of the activation that ``node`` is; None where its limits are no constants."""
    if node.op == "Gelu":
        return {"activation": "GeluTanh" if node.attrs["approximate"] == "tanh" else "Gelu"}
    if node.op != "Clip":
        return {"activation": node.op}
    limits = []
    for value, missing in zip((*node.inputs[1:], None, None), (float("-inf"), float("inf")), strict=False):
        if value is not None and value not in graph.constants:
            return None
        limits.append(missing if value is None else float(graph.constants[value].array().item()))
    return {"activation": "Clip", "activation_params": tuple(limits)}


_RULES = (
    product_of_matmul,
    product_of_turned_weights,
    product_of_gemm,
    fused_convolution,
    product_bias,
    *(_residual_rule(name) for name in _LAYERS),
    *(_activation_rule(name, activation) for name in _LAYERS for activation in ("Relu", "Clip", "Gelu", "Tanh")),
)


@register
@dataclass(frozen=True)
class FuseEpilogue:
    """Fuse bias, residual sum and activation into products and channels-last convolutions with constant weights.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fuse-epilogue"
    max_rounds: int = 4

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with Product and FusedConvNhwc nodes."""
        return rewrite(graph, _RULES, ctx, max_rounds=self.max_rounds)
