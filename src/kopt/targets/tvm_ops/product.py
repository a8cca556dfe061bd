"""Products of matrices: kopt's kernel for constant weights, its own loop for computed ones, and sums of products for the rest."""

from __future__ import annotations

from functools import lru_cache, partial
from math import prod

import numpy as np

from kopt.ir.graph import KOPT
from kopt.targets.kernels.kernel import Epilogue
from kopt.targets.kernels.packing import packed_matrix
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.tiling import product_tiling
from kopt.targets.tvm_loops import Batched
from kopt.targets.tvm_ops.registry import Context, translates
from kopt.targets.tvm_plan import Refused
from kopt.targets.tvm_tree import Leaf, Tensor
from kopt.targets.tvm_view import joined

_tiling = lru_cache(product_tiling)


def epilogue_of(ctx: Context, bias: Tensor | None, residual: Tensor | None) -> Epilogue | None:
    """The node's bias, residual and activation; None for an activation that kernels do not have."""
    activation, params = str(ctx.attr("activation", "")), ctx.attr("activation_params")
    return Epilogue.of(activation, params, bias=bias is not None, residual=residual is not None)


def multiplied(ctx: Context, x: Tensor, w: Tensor, epilogue: Epilogue, rest: list[Tensor]) -> Tensor | None:
    """epilogue(x @ w) by the kernel, None where it does not take these sizes.

    Args:
        ctx: of the node.
        x: (M, K).
        w: (K, N), known.
        epilogue: what follows.
        rest: bias (N,) and residual (M, N), as the epilogue says.
    """
    (m, k), n = x.shape, w.shape[1]
    if n < ctx.plan.lanes or min(m, k) < 1 or x.dtype != "float32" or not ctx.plan.is_known(w):
        return None
    tiling = _tiling(m, k, n, ctx.plan.lanes, ctx.plan.cores)
    kernel = ctx.plan.scheduled(Product(m, k, n, tiling, epilogue))
    packed = ctx.plan.packed(w, kernel.operands[1], partial(packed_matrix, kernel), "product")
    return ctx.plan.call(kernel, [ctx.plan.leaf(x), packed, *(ctx.plan.leaf(one) for one in rest)])


def activated(ctx: Context, y: Tensor) -> Tensor:
    """The activation that the node names, as an expression."""
    name = str(ctx.attr("activation", ""))
    if name == "Clip":
        low, high = ctx.attr("activation_params")
        return ctx.apply("at_most", ctx.number(high), ctx.apply("at_least", ctx.number(low), y))
    simple = {"Gelu": "gelu", "GeluTanh": "gelu_tanh", "Tanh": "tanh", "Sigmoid": "sigmoid"}
    if name == "Relu":
        return ctx.apply("at_least", ctx.number(0), y)
    if name == "LeakyRelu":
        slope = ctx.number((ctx.attr("activation_params") or (0.01,))[0])
        return ctx.apply("select", ctx.apply("lt", y, ctx.number(0), dtype="bool"), ctx.apply("mul", y, slope), y)
    if name and name not in simple:
        raise Refused(f"activation {name}")
    return ctx.apply(simple[name], y) if name else y


def finished(ctx: Context, y: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """Bias, residual and activation as an expression; the bias runs along the last axis."""
    y = y if bias is None else ctx.apply("add", y, bias)
    return activated(ctx, y if residual is None else ctx.apply("add", y, residual))


@translates("Product", domain=KOPT)
def product(ctx: Context, x: Tensor, w: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """activation(x @ w + bias + residual).  x: (..., K), w: (K, N), or (N, K) with ``transB``."""
    w = ctx.plan.permuted(w, (1, 0)) if ctx.attr("transB") else w
    rows = prod(x.shape[:-1])
    epilogue = epilogue_of(ctx, bias, residual)
    flat = (rows, w.shape[1])
    if epilogue is not None:
        rest = [one for one in (bias, None if residual is None else ctx.plan.reshaped(residual, flat)) if one is not None]
        y = multiplied(ctx, ctx.plan.reshaped(x, (rows, x.shape[-1])), w, epilogue, rest)
        if y is not None:
            return ctx.plan.reshaped(y, ctx.shape)
    return finished(ctx, matmul(ctx, x, w), bias, residual)


@translates("Gemm")
def gemm(ctx: Context, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """``alpha * a @ b + beta * c``."""
    a = ctx.plan.permuted(a, (1, 0)) if ctx.attr("transA") else a
    b = ctx.plan.permuted(b, (1, 0)) if ctx.attr("transB") else b
    alpha, beta = ctx.attr("alpha"), ctx.attr("beta")
    if alpha == 1 and (c is None or (beta == 1 and c.shape == b.shape[1:])):
        y = multiplied(ctx, a, b, Epilogue(bias=c is not None), [] if c is None else [c])
        if y is not None:
            return y
    y = matmul(ctx, a, b)
    y = y if alpha == 1 else ctx.apply("mul", y, ctx.number(alpha))
    if c is None or beta == 0:
        return y
    return ctx.apply("add", y, c if beta == 1 else ctx.apply("mul", c, ctx.number(beta)))


@translates("MatMul")
def matmul(ctx: Context, a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` with batches broadcast."""
    left = a if len(a.shape) > 1 else ctx.plan.reshaped(a, (1, *a.shape))
    right = b if len(b.shape) > 1 else ctx.plan.reshaped(b, (*b.shape, 1))
    if len(right.shape) == 2:
        rows = prod(left.shape[:-1])
        y = multiplied(ctx, ctx.plan.reshaped(left, (rows, left.shape[-1])), right, Epilogue(), [])
        if y is not None:
            return ctx.plan.reshaped(y, (*left.shape[:-1], right.shape[1]) if ctx.node.op != "MatMul" else ctx.shape)
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (ctx.plan.expanded(one, (*batch, *one.shape[-2:])) if one.is_stored else one for one in (left, right))
    y = _batched(ctx, left, right, batch) or _summed(ctx, left, right)
    shape = (*batch, *(y.shape[-2:-1] if len(a.shape) > 1 else ()), *(y.shape[-1:] if len(b.shape) > 1 else ()))
    return ctx.plan.reshaped(y, shape)


def _batched(ctx: Context, left: Tensor, right: Tensor, batch: tuple[int, ...]) -> Tensor | None:
    """The loop for computed matrices, None where it does not take them."""
    m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
    lanes = ctx.plan.lanes
    if left.dtype != "float32" or n < lanes or 0 in (m, k, *batch) or m * k * n < 4096:
        return None
    x, w = (_in_memory(ctx, one, batch) for one in (left, right))
    if w.view.strides[-1] != 1:
        w = ctx.plan.leaf(Tensor(w.view.shape, w))
    outer = joined(batch, [x.view.strides[:-2], w.view.strides[:-2]]) or [(1, (0, 0))]
    tiling = _tiling(m, k, n, lanes, ctx.plan.cores)
    sizes = tuple(size for size, _ in outer)
    strides = [tuple(steps[one] for _, steps in outer) for one in (0, 1)]
    loop = Batched(sizes, m, k, n, (*strides[0], *x.view.strides[-2:]), (*strides[1], w.view.strides[-2]), tiling.rows, tiling.panel, 1)
    result = ctx.plan.new((*batch, m, n), "float32")
    pieces = prod(sizes) * -(-m // tiling.rows) * -(-n // tiling.panel)
    ctx.plan.add(loop, [x, w], ctx.plan.leaf(result), pieces)
    return result


def _in_memory(ctx: Context, tensor: Tensor, batch: tuple[int, ...]) -> Leaf:
    """The tensor repeated over the batch and read in place, computed first where it must be."""
    tree = tensor.tree if isinstance(tensor.tree, Leaf) else ctx.plan.leaf(tensor)
    return Leaf(tree.storage, tree.view.expanded((*batch, *tensor.shape[-2:])))


def _summed(ctx: Context, left: Tensor, right: Tensor) -> Tensor:
    """Sums of products of elements, for any type and size."""
    left, right = (one if one.is_stored else ctx.plan.stored(one) for one in (left, right))
    turned = ctx.plan.permuted(right, (*range(len(right.shape) - 2), len(right.shape) - 1, len(right.shape) - 2))
    one = ctx.plan.reshaped(left, (*left.shape[:-1], 1, left.shape[-1]))
    other = ctx.plan.reshaped(turned, (*turned.shape[:-2], 1, *turned.shape[-2:]))
    terms = ctx.apply("mul", one, other)
    sums = ctx.plan.reduced(terms, [len(terms.shape) - 1], "sum")
    return ctx.plan.reshaped(sums, sums.shape[:-1])
