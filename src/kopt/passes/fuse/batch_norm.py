"""Fold an inference BatchNormalization into the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.ir.pattern import Match, Var, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext, Skip, register

_PARAMETERS = tuple(Var(name, constant=True) for name in ("gamma", "beta", "mean", "var"))
_CONV = op("Conv", Var("x"), Var("w", constant=True), Var("bias", constant=True, optional=True), as_="conv")


@rule(op("BatchNormalization", _CONV, *_PARAMETERS, as_="bn"))
def fold_batch_norm(m: Match, b: Builder) -> Value | Skip:
    """Conv(x, w, bias) -> BatchNormalization   ==>   Conv(x, w', bias').

    With s = gamma / sqrt(var + epsilon), one factor per output channel, shape ``(C_out,)``:
    w' = w * s along axis 0, bias' = (bias - mean) * s + beta.
    Source: ONNX BatchNormalization-15, inference form.
    """
    bn, w = m.node("bn"), m.array("w")
    if bn.attrs.get("training_mode"):
        return Skip("batch-norm is in training mode")
    if w.dtype not in (np.float32, np.float64):
        return Skip(f"weights are {w.dtype}")
    gamma, beta, mean, var = (m.array(name).astype(np.float64) for name in ("gamma", "beta", "mean", "var"))
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + float(bn.attrs["epsilon"]))  # type: ignore[arg-type]
    if not np.isfinite(scale).all():
        return Skip("batch-norm scale is not finite")
    bias = m.array("bias").astype(np.float64) if m.has("bias") else np.zeros_like(mean)
    folded = (w * scale.reshape(-1, *[1] * (w.ndim - 1))).astype(w.dtype)
    new_w = b.constant(folded, f"{m['w'].name}_bn")
    new_bias = b.constant(((bias - mean) * scale + beta).astype(w.dtype), f"{m['w'].name}_bn_bias")
    return b.emit_many("Conv", m["x"], new_w, new_bias, attrs=dict(m.node("conv").attrs), types=[bn.output.type], hint=bn.output.name)[0]


@register
@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold BatchNormalization into the Conv before it.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fold-batch-norm"
    max_rounds: int = 4

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with foldable normalizations gone."""
        return rewrite(graph, [fold_batch_norm], ctx, max_rounds=self.max_rounds)
