"""Fuse an activation into the layer before it, as ONNX Runtime's FusedConv and FusedGemm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.builder import Builder
from kopt.ir.graph import MICROSOFT, Attr, Graph, Value
from kopt.ir.pattern import Match, Var, op
from kopt.ir.rewrite import Rule, rewrite
from kopt.passes.base import PassContext, Skip, register

_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu")


def _activation_rule(layer_op: str, activation: str) -> Rule:
    inputs = (Var("x"), Var("w"), Var("bias", optional=layer_op == "Conv"))

    def fuse_activation(m: Match, b: Builder) -> Value | Skip:
        """Activation(Layer(x, w, bias))   ==>   com.microsoft FusedLayer(x, w, bias, activation=...)."""
        layer, output = m.node("layer"), m.root.output
        if output.tensor.dtype.value != "f32":
            return Skip("ONNX Runtime fuses float32 alone")
        if layer_op == "Conv" and output.tensor.rank not in (3, 4):
            return Skip("ONNX Runtime fuses convolutions over one or two axes alone")
        attrs: dict[str, Attr] = {**layer.attrs, "activation": activation}
        if activation == "LeakyRelu":
            alpha = float(m.root.attrs["alpha"])  # type: ignore[arg-type]
            attrs |= {"activation_params": (alpha,)} if layer_op == "Conv" else {"activation_alpha": alpha}
        options = {"attrs": attrs, "domain": MICROSOFT, "types": [output.type], "hint": output.name}
        return b.emit_many(f"Fused{layer_op}", *layer.inputs, **options)[0]  # type: ignore[arg-type]

    return Rule("fuse_activation", op(activation, op(layer_op, *inputs, as_="layer")), fuse_activation)


_RULES = tuple(_activation_rule(layer, activation) for layer in ("Conv", "Gemm") for activation in _ACTIVATIONS)


@register
@dataclass(frozen=True)
class FuseActivation:
    """Fuse Relu, Sigmoid, Tanh and LeakyRelu into the Conv or Gemm before them, for ONNX Runtime.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fuse-activation"
    max_rounds: int = 2

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with FusedConv and FusedGemm nodes."""
        return rewrite(graph, _RULES, ctx, max_rounds=self.max_rounds)
