"""Attention: kopt's kernel over heads that lie side by side."""

from __future__ import annotations

import numpy as np

from kopt.targets.kernels.choice import attention_kernel
from kopt.targets.tvm_ops.movement import padded
from kopt.targets.tvm_ops.product import matmul
from kopt.targets.tvm_ops.reduction import rows
from kopt.targets.tvm_ops.registry import Context, translates
from kopt.targets.tvm_plan import Refused
from kopt.targets.tvm_tree import Number, Tensor


@translates("Attention")
def attention(ctx: Context, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *rest: Tensor | None) -> Tensor:
    """softmax(q k^T * scale + mask) v.  q: (B, H, Tq, D) or (B, Tq, H * D)."""
    if any(one is not None for one in rest) or any(ctx.wants(index) for index in (1, 2, 3)):
        raise Refused("a cache, or more than its result is read")
    if (
        ctx.attr("softcap")
        or ctx.attr("softmax_precision")
        or q.dtype != "float32"
        or (mask is not None and mask.dtype not in ("float32", "bool"))
    ):
        raise Refused("only f32 without a soft cap")
    flat = len(q.shape) == 3
    heads, shared = (ctx.attr("q_num_heads"), ctx.attr("kv_num_heads")) if flat else (q.shape[1], k.shape[1])
    q, k, v = (_split(ctx, one, count) if flat else one for one, count in ((q, heads), (k, shared), (v, shared)))
    given = ctx.attr("scale")
    scale = float(1 / np.sqrt(q.shape[-1]) if given is None else given)
    mask = _whole_mask(ctx, mask, q.shape[2], k.shape[2])
    y = _by_kernel(ctx, q, k, v, mask, scale)
    y = _plain(ctx, q, k, v, mask, scale) if y is None else y
    return ctx.plan.reshaped(ctx.plan.permuted(y, (0, 2, 1, 3)) if flat else y, ctx.shape)


def _split(ctx: Context, x: Tensor, heads: int) -> Tensor:
    """(B, T, H * D) ==> (B, H, T, D)."""
    parts = ctx.plan.reshaped(x, (*x.shape[:2], heads, x.shape[2] // heads))
    return ctx.plan.permuted(parts, (0, 2, 1, 3))


def _whole_mask(ctx: Context, mask: Tensor | None, queries: int, keys: int) -> Tensor | None:
    """What is added to the scores: given numbers, -inf where a truth value hides a key or it lies outside of the window."""
    low, none = ctx.number(float("-inf"), "float32"), ctx.number(0.0, "float32")
    if mask is not None and mask.dtype == "bool":
        mask = ctx.apply("select", mask, none, low, dtype="float32")
    left, right = ctx.attr("left_window_size", -1), ctx.attr("right_window_size", -1)
    ahead = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    limits = [ahead <= 0] if ctx.attr("is_causal") else []
    limits += [ahead >= -left] if left >= 0 else []
    limits += [ahead <= right] if right >= 0 else []
    if not limits:
        return mask
    seen = np.where(np.logical_and.reduce(limits), np.float32(0), np.float32(-np.inf))
    hidden = ctx.plan.constant(seen)
    return hidden if mask is None else ctx.apply("add", mask, hidden, dtype="float32")


def _by_kernel(ctx: Context, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor | None:
    plan = ctx.plan
    usual = attention_kernel(q.shape, v.shape, None if mask is None else mask.shape, scale, plan.lanes, plan.cores)
    if usual is None:
        return None
    kernel = plan.scheduled(usual)
    operands = [
        plan.leaf(plan.reshaped(plan.permuted(x, (0, 2, 1, 3)), (x.shape[0], x.shape[2], x.shape[1] * x.shape[3]))) for x in (q, k, v)
    ]
    if mask is not None:
        whole = plan.reshaped(mask, (*kernel.mask, kernel.keys))
        after = [0, 0, 0, kernel.padded_keys - kernel.keys]
        operands.append(plan.leaf(padded(ctx, whole, [0] * 4, after, Number(float("-inf"), "float32"))))
    y = plan.reshaped(plan.call(kernel, operands), (kernel.batch, kernel.queries, kernel.heads, kernel.value_size))
    return plan.permuted(y, (0, 2, 1, 3))


def _plain(ctx: Context, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Products and softmax one after the other."""
    if k.shape[1] != q.shape[1]:
        raise Refused("shared heads of unusual size")
    scores = ctx.apply("mul", matmul(ctx, q, ctx.plan.permuted(k, (0, 1, 3, 2))), ctx.number(scale, "float32"))
    scores = scores if mask is None else ctx.apply("add", scores, mask)
    return matmul(ctx, rows(ctx, "masked_softmax", scores), v)
