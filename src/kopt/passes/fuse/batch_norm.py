"""Fold an inference BatchNormalization into the convolution or product before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.ir.pattern import AnyOf, Match, Pattern, Var, any_of, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext, Skip, register

_PARAMETERS = tuple(Var(name, constant=True) for name in ("gamma", "beta", "mean", "var"))
_WEIGHTS = (Var("x"), Var("w", constant=True), Var("bias", constant=True, optional=True))


def _layer(name: str, *inputs: Pattern) -> AnyOf:
    """The operator, or its sum with a constant."""
    layer = op(name, *inputs, as_="layer")
    return any_of(layer, op("Add", layer, Var("added", constant=True), commutative=True))


def _affine(m: Match) -> tuple[np.ndarray, np.ndarray] | Skip:
    """Factor and offset per channel, float64 of shape ``(C,)``: y = x * scale + offset.

    Source: ONNX BatchNormalization-15, inference form.
    """
    bn = m.node("bn")
    if bn.attrs.get("training_mode"):
        return Skip("batch-norm is in training mode")
    gamma, beta, mean, var = (m.array(name).astype(np.float64) for name in ("gamma", "beta", "mean", "var"))
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + float(bn.attrs["epsilon"]))  # type: ignore[arg-type]
        offset = beta - mean * scale
    if not np.isfinite(scale).all() or not np.isfinite(offset).all():
        return Skip("batch-norm scale is not finite")
    return scale, offset


def _fold(m: Match, b: Builder, channels: Callable[[np.ndarray], np.ndarray], beta: float = 1.0) -> Value | Skip:
    """The operator under the batch-norm with scaled weights; ``channels`` shapes a factor per channel like the weights."""
    w, affine = m.array("w"), _affine(m)
    if w.dtype not in (np.float32, np.float64):
        return Skip(f"weights are {w.dtype}")
    if isinstance(affine, Skip):
        return affine
    scale, offset = affine
    bias = m.array("bias").astype(np.float64) * beta if m.has("bias") else np.zeros_like(scale)
    if bias.size != 1 and (bias.size != scale.size or bias.shape[-1:] != scale.shape):
        return Skip("the bias is not one number per channel")
    node = m.node("layer")
    if m.has("added"):
        added = _per_channel(m, scale.size)
        if isinstance(added, Skip):
            return added
        bias = bias.reshape(-1) + added
    new_w = b.constant((w * channels(scale)).astype(w.dtype), f"{m['w'].name}_bn")
    new_bias = b.constant((bias.reshape(-1) * scale + offset).astype(w.dtype), f"{m['w'].name}_bn_bias")
    attrs = {**node.attrs, "beta": 1.0} if node.op == "Gemm" else dict(node.attrs)
    name, output = "Gemm" if node.op == "MatMul" else node.op, m.root.output
    return b.emit_many(name, m["x"], new_w, new_bias, attrs=attrs, types=[output.type], hint=output.name)[0]


def _per_channel(m: Match, channels: int) -> np.ndarray | Skip:
    """What is added to the layer, float64 of shape ``(channels,)`` or ``(1,)``."""
    added, shape = m.array("added").astype(np.float64), m.node("layer").output.tensor.shape
    if shape is None or m.root.output.tensor.shape != shape:
        return Skip("the sum broadcasts the layer's output")
    rank = len(shape)
    if added.size != 1 and (added.size != channels or added.shape[max(0, added.ndim + 1 - rank) :] != (channels, *[1] * (rank - 2))):
        return Skip("the addend is not one number per channel")
    return added.reshape(-1)


@rule(op("BatchNormalization", _layer("Conv", *_WEIGHTS), *_PARAMETERS, as_="bn"))
def fold_batch_norm(m: Match, b: Builder) -> Value | Skip:
    """Conv(x, w, bias) -> BatchNormalization   ==>   Conv(x, w * s, bias * s + offset), s along axis 0 of w."""
    return _fold(m, b, lambda scale: scale.reshape(-1, *[1] * (m.array("w").ndim - 1)))


@rule(op("BatchNormalization", _layer("ConvTranspose", *_WEIGHTS), *_PARAMETERS, as_="bn"))
def fold_batch_norm_transposed(m: Match, b: Builder) -> Value | Skip:
    """ConvTranspose(x, w, bias) -> BatchNormalization   ==>   ConvTranspose(x, w * s, bias * s + offset).

    w is ``(C_in, C_out / group, ...)``: rows of one group take that group's factors.
    """
    w, groups = m.array("w"), int(m.node("layer").attrs.get("group", 1))  # type: ignore[arg-type]

    def channels(scale: np.ndarray) -> np.ndarray:
        rows = np.repeat(scale.reshape(groups, -1), w.shape[0] // groups, axis=0)
        return rows.reshape(*rows.shape, *[1] * (w.ndim - 2))

    return _fold(m, b, channels)


@rule(op("BatchNormalization", _layer("Gemm", *_WEIGHTS), *_PARAMETERS, as_="bn"))
def fold_batch_norm_product(m: Match, b: Builder) -> Value | Skip:
    """Gemm(x, w, bias) -> BatchNormalization   ==>   Gemm(x, w * s, beta * bias * s + offset)."""
    attrs = m.node("layer").attrs
    return _fold(m, b, lambda scale: scale[:, None] if attrs["transB"] else scale, float(attrs["beta"]))  # type: ignore[arg-type]


@rule(op("BatchNormalization", _layer("MatMul", Var("x"), Var("w", constant=True)), *_PARAMETERS, as_="bn"))
def fold_batch_norm_matmul(m: Match, b: Builder) -> Value | Skip:
    """MatMul(x, w) + added -> BatchNormalization   ==>   Gemm(x, w * s, added * s + offset), for matrices."""
    if m["x"].tensor.rank != 2 or m["w"].tensor.rank != 2:
        return Skip("the product is not of two matrices")
    return _fold(m, b, lambda scale: scale)


@rule(op("BatchNormalization", Var("x"), *_PARAMETERS, as_="bn"))
def expand_batch_norm(m: Match, b: Builder) -> Value | Skip:
    """BatchNormalization(x)   ==>   x * s + offset, where no layer before it takes the factors."""
    tensor, affine = m["x"].tensor, _affine(m)
    if tensor.rank is None or tensor.dtype.value not in ("f32", "f64"):
        return Skip(f"x is {tensor}")
    if isinstance(affine, Skip):
        return affine
    shape = (-1, *[1] * (tensor.rank - 2)) if tensor.rank > 1 else (-1,)
    scale, offset = (array.reshape(shape).astype(tensor.dtype.numpy) for array in affine)
    output = m.root.output
    scaled = b.emit("Mul", m["x"], b.constant(scale, f"{output.name}_scale"))
    return b.emit_many("Add", scaled, b.constant(offset, f"{output.name}_offset"), types=[output.type], hint=output.name)[0]


@register
@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold BatchNormalization into the layer before it; elsewhere spell it as a product and a sum.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fold-batch-norm"
    max_rounds: int = 4

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with foldable normalizations gone."""
        rules = [fold_batch_norm, fold_batch_norm_transposed, fold_batch_norm_product, fold_batch_norm_matmul, expand_batch_norm]
        return rewrite(graph, rules, ctx, max_rounds=self.max_rounds)
