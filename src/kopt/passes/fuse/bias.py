"""Fold a constant Add into the layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.ir.pattern import Match, Var, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext, Skip, register

_ADDED = Var("added", constant=True)
_LAYER = (Var("x"), Var("w", constant=True), Var("bias", constant=True, optional=True))


def _emit(m: Match, b: Builder, op_name: str, bias: np.ndarray, **changes: float) -> Value:
    attrs = {**m.node("layer").attrs, **changes}
    new_bias = b.constant(bias.astype(m.array("w").dtype), f"{m['added'].name}_bias")
    output = m.root.output
    return b.emit_many(op_name, m["x"], m["w"], new_bias, attrs=attrs, types=[output.type], hint=output.name)[0]


def _declined(m: Match) -> Skip | None:
    if m.array("w").dtype not in (np.float32, np.float64):
        return Skip(f"weights are {m.array('w').dtype}")
    if m.node("layer").output.tensor.shape != m.root.output.tensor.shape:
        return Skip("the sum broadcasts the layer's output")
    return None


def _convolution(m: Match, b: Builder) -> Value | Skip:
    declined, layer = _declined(m), m.node("layer")
    rank, added = m["w"].tensor.rank or 0, m.array("added")
    if declined:
        return declined
    groups = int(layer.attrs.get("group", 1))  # type: ignore[arg-type]
    w = m.array("w")
    channels = w.shape[0] if layer.op == "Conv" else w.shape[1] * groups
    if added.size != 1 and (added.ndim < rank - 1 or added.shape[1 - rank :] != (channels, *[1] * (rank - 2)) or added.size != channels):
        return Skip("the addend is not one number per channel")
    bias = m.array("bias") if m.has("bias") else np.zeros(channels, w.dtype)
    return _emit(m, b, layer.op, bias + added.reshape(-1))


@rule(op("Add", op("Conv", *_LAYER, as_="layer"), _ADDED, commutative=True))
def fuse_conv_bias(m: Match, b: Builder) -> Value | Skip:
    """Conv(x, w, bias) + added   ==>   Conv(x, w, bias + added), one number per channel."""
    return _convolution(m, b)


@rule(op("Add", op("ConvTranspose", *_LAYER, as_="layer"), _ADDED, commutative=True))
def fuse_transposed_conv_bias(m: Match, b: Builder) -> Value | Skip:
    """ConvTranspose(x, w, bias) + added   ==>   ConvTranspose(x, w, bias + added)."""
    return _convolution(m, b)


@rule(op("Add", op("MatMul", Var("x"), Var("w", constant=True), as_="layer"), _ADDED, commutative=True))
def fuse_product_bias(m: Match, b: Builder) -> Value | Skip:
    """MatMul(x, w) + added   ==>   Gemm(x, w, added), for matrices."""
    declined = _declined(m)
    if declined:
        return declined
    if m["x"].tensor.rank != 2 or m["w"].tensor.rank != 2:
        return Skip("the product is not of two matrices")
    if m.array("added").size not in (1, m.array("w").shape[1]) or m.array("added").ndim > 1:
        return Skip("the addend is not one number per column")
    attrs = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    return _emit(m, b, "Gemm", m.array("added"), **attrs)


@rule(op("Add", op("Gemm", *_LAYER, as_="layer"), _ADDED, commutative=True))
def fuse_gemm_bias(m: Match, b: Builder) -> Value | Skip:
    """Gemm(x, w, bias) + added   ==>   Gemm(x, w, beta * bias + added)."""
    declined, layer = _declined(m), m.node("layer")
    if declined:
        return declined
    columns = m.array("w").shape[0 if layer.attrs["transB"] else 1]
    arrays = [m.array(name) for name in ("bias", "added") if m.has(name)]
    if any(array.size != 1 and array.shape not in ((columns,), (1, columns)) for array in arrays):
        return Skip("the addend is not one number per column")
    bias = m.array("bias") * layer.attrs["beta"] if m.has("bias") else np.zeros((), m.array("w").dtype)
    return _emit(m, b, "Gemm", bias.reshape(-1) + m.array("added").reshape(-1), beta=1.0)


@register
@dataclass(frozen=True)
class FuseBias:
    """Make a constant sum the bias of the Conv, ConvTranspose, Gemm or 2-D MatMul before it.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fuse-bias"
    max_rounds: int = 4

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with sums in biases."""
        rules = [fuse_conv_bias, fuse_transposed_conv_bias, fuse_product_bias, fuse_gemm_bias]
        return rewrite(graph, rules, ctx, max_rounds=self.max_rounds)
