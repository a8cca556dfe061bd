"""Recognise scaled dot-product attention spelled out with MatMul and Softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.builder import Builder
from kopt.ir.graph import Attr, Graph, Value
from kopt.ir.pattern import Match, Pattern, Var, op
from kopt.ir.rewrite import Rule, rewrite
from kopt.passes.base import PassContext, Skip, register

_RANK = 4
_PRODUCT = op("MatMul", Var("q"), op("Transpose", Var("k"), as_="turn"), as_="product")
_SCALE = Var("scale", constant=True)
_SCORES: dict[str, Pattern] = {
    "mul": op("Mul", _PRODUCT, _SCALE, commutative=True),
    "div": op("Div", _PRODUCT, _SCALE),
    "none": _PRODUCT,
}


def _key(m: Match, b: Builder) -> Value | Skip:
    """The key as ``(batch, heads, length, size)``; what the graph holds may be any order of axes of it."""
    perm = tuple(m.node("turn").attrs.get("perm") or ())  # type: ignore[arg-type]
    if m["q"].tensor.rank != _RANK or m["k"].tensor.rank != _RANK or m["v"].tensor.rank != _RANK or len(perm) != _RANK:
        return Skip("attention is not over four axes")
    order = (*perm[:2], perm[3], perm[2])
    return m["k"] if order == (0, 1, 2, 3) else b.emit("Transpose", m["k"], attrs={"perm": order})


def _scale(m: Match, kind: str) -> float | Skip:
    if kind == "none":
        return 1.0
    scale = m.array("scale")
    if scale.size != 1 or not float(scale.item()) > 0:
        return Skip("the scale is not one positive number")
    return float(scale.item()) if kind == "mul" else 1.0 / float(scale.item())


def _mask_declined(m: Match, shared: bool) -> Skip | None:
    """Why the mask is none that Attention takes: of the scores' element type, broadcast to them; ``shared`` by all queries or not."""
    mask, scores = m["mask"].tensor, m.node("product").output.tensor
    if mask.shape is None or scores.shape is None or not 1 < len(mask.shape) <= _RANK:
        return Skip("the mask has no known shape of 2 to 4 axes")
    if mask.dtype != scores.dtype or mask.shape[-1] != scores.shape[-1]:
        return Skip("the mask is not one number per key")
    if mask.shape[-2] != scores.shape[-2] and not shared:
        return Skip("the mask is not one number per pair of positions")
    if any(have not in (1, want) for have, want in zip(mask.shape[::-1], scores.shape[::-1], strict=False)):
        return Skip("the mask makes the scores larger")
    return None


def _attention_rule(kind: str, masked: bool, shared: bool) -> Rule:
    scores = op("Add", _SCORES[kind], Var("mask"), commutative=True) if masked else _SCORES[kind]

    def fuse_attention(m: Match, b: Builder) -> Value | Skip:
        """MatMul(Softmax(MatMul(q, k^T) * scale + mask), v)   ==>   Attention(q, k, v, mask)."""
        rank = m.node("softmax").output.tensor.rank
        if m.node("softmax").attrs.get("axis", -1) not in (-1, None if rank is None else rank - 1):
            return Skip("softmax is not over the keys")
        scale, declined = _scale(m, kind), _mask_declined(m, shared) if masked else None
        if declined:
            return declined
        if isinstance(scale, Skip):
            return scale
        q, v = m["q"].tensor, m["v"].tensor
        key = _key(m, b)
        if isinstance(key, Skip):
            return key
        batches = {tensor.shape[:2] if tensor.shape else None for tensor in (q, key.tensor, v)}
        if len(batches) != 1 or None in batches or q.dtype.value not in ("f32", "f16", "bf16"):
            return Skip("query, key and value differ in batch or heads")
        attrs: dict[str, Attr] = {"scale": scale, "is_causal": 0}
        mask = (m["mask"],) if masked else ()
        output = m.root.output
        return b.emit_many("Attention", m["q"], key, m["v"], *mask, attrs=attrs, types=[output.type], hint=output.name)[0]

    pattern = op("MatMul", op("Softmax", scores, as_="softmax"), Var("v"))
    return Rule("fuse_attention", pattern, fuse_attention)


_RULES = {shared: tuple(_attention_rule(kind, masked, shared) for masked in (True, False) for kind in _SCORES) for shared in (True, False)}


@register
@dataclass(frozen=True)
class FuseAttention:
    """Replace attention subgraphs over ``(batch, heads, length, size)`` by one Attention node.

    Rows that a mask of -inf hides whole are NaN in the graph and may be zero in the fused operator.

    Attributes:
        shared_masks: also with masks of one row for all queries, which the operator allows; ONNX Runtime 1.32 fails on them.
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fuse-attention"
    shared_masks: bool = False
    max_rounds: int = 2

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with Attention nodes."""
        return rewrite(graph, _RULES[self.shared_masks], ctx, max_rounds=self.max_rounds)
