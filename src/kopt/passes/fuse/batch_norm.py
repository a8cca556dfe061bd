"""Fold an inference BatchNormalization into the convolution or product before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.ir.pattern import Match, Var, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext, Skip, register

_PARAMETERS = tuple(Var(name, constant=True) for name in ("gamma", "beta", "mean", "var"))
_WEIGHTS = (Var("x"), Var("w", constant=True), Var("bias", constant=True, optional=True))


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
    new_w = b.constant((w * channels(scale)).astype(w.dtype), f"{m['w'].name}_bn")
    new_bias = b.constant((bias.reshape(-1) * scale + offset).astype(w.dtype), f"{m['w'].name}_bn_bias")
    attrs = {**node.attrs, "beta": 1.0} if node.op == "Gemm" else dict(node.attrs)
    output = m.root.output
    return b.emit_many(node.op, m["x"], new_w, new_bias, attrs=attrs, types=[output.type], hint=output.name)[0]


@rule(op("BatchNormalization", op("Conv", *_WEIGHTS, as_="layer"), *_PARAMETERS, as_="bn"))
def fold_batch_norm(m: Match, b: Builder) -> Value | Skip:
    """Conv(x, w, bias) -> BatchNormalization   ==>   Conv(x, w * s, bias * s + offset), s along axis 0 of w."""
    return _fold(m, b, lambda scale: scale.reshape(-1, *[1] * (m.array("w").ndim - 1)))


@rule(op("BatchNormalization", op("ConvTranspose", *_WEIGHTS, as_="layer"), *_PARAMETERS, as_="bn"))
def fold_batch_norm_transposed(m: Match, b: Builder) -> Value | Skip:
    """ConvTranspose(x, w, bias) -> BatchNormalization   ==>   ConvTranspose(x, w * s, bias * s + offset).

    w is ``(C_in, C_out / group, ...)``: rows of one group take that group's factors.
    """
    w, groups = m.array("w"), int(m.node("layer").attrs.get("group", 1))  # type: ignore[arg-type]

    def channels(scale: np.ndarray) -> np.ndarray:
        rows = np.repeat(scale.reshape(groups, -1), w.shape[0] // groups, axis=0)
        return rows.reshape(*rows.shape, *[1] * (w.ndim - 2))

    return _fold(m, b, channels)


@rule(op("BatchNormalization", op("Gemm", *_WEIGHTS, as_="layer"), *_PARAMETERS, as_="bn"))
def fold_batch_norm_product(m: Match, b: Builder) -> Value | Skip:
    """Gemm(x, w, bias) -> BatchNormalization   ==>   Gemm(x, w * s, beta * bias * s + offset)."""
    attrs = m.node("layer").attrs
    return _fold(m, b, lambda scale: scale[:, None] if attrs["transB"] else scale, float(attrs["beta"]))  # type: ignore[arg-type]


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
        rules = [fold_batch_norm, fold_batch_norm_transposed, fold_batch_norm_product, expand_batch_norm]
        return rewrite(graph, rules, ctx, max_rounds=self.max_rounds)
