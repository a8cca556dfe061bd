"""kopt's inverted residual block: one kernel where it pays, else layer by layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from kopt.ir.graph import KOPT
from kopt.targets.kernels.choice import inverted_kernel
from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.packing import pack
from kopt.targets.tvm_ops.conv import Geometry, convolved
from kopt.targets.tvm_ops.product import epilogue_of
from kopt.targets.tvm_ops.registry import Context, translates
from kopt.targets.tvm_tree import Leaf, Tensor

Layers = tuple[Tensor | None, ...]


@translates("InvertedResidual", domain=KOPT)
def inverted_residual(
    ctx: Context,
    x: Tensor,
    first: Tensor | None,
    first_bias: Tensor | None,
    filters: Tensor,
    slide_bias: Tensor | None,
    last: Tensor,
    last_bias: Tensor | None = None,
) -> Tensor:
    """See ``kopt.ir.inverted_types``."""
    window = Geometry.of(ctx, x.shape[1:-1], filters.shape[2:])
    y = _by_kernel(ctx, x, (first, first_bias, filters, slide_bias, last, last_bias), window)
    if y is not None:
        return y
    point = Geometry((1, 1), (1, 1), (1, 1), (0, 0), (0, 0), x.shape[1:-1])
    wide = x if first is None else convolved(_layer(ctx, 1), x, first, point, first_bias, None)
    slid = convolved(_layer(ctx, filters.shape[0]), wide, filters, window, slide_bias, None)
    across = Geometry((1, 1), (1, 1), (1, 1), (0, 0), (0, 0), window.counts)
    return convolved(_layer(ctx, 1, "last_"), slid, last, across, last_bias, x if ctx.attr("residual", 0) else None)


def _layer(ctx: Context, group: int, prefix: str = "") -> Context:
    """The context of a layer of the block: its grouping, and the activation of that prefix."""
    names = ("activation", "activation_params")
    own: dict[str, Any] = {name: ctx.node.attrs[prefix + name] for name in names if prefix + name in ctx.node.attrs}
    return Context(ctx.plan, ctx.node.replace(attrs={"group": group, **own}))


def _by_kernel(ctx: Context, x: Tensor, layers: Layers, window: Geometry) -> Tensor | None:
    """The block in one kernel; None where it cannot run as one, or does not pay."""
    first, first_bias, filters, slide_bias, last, last_bias = layers
    plan, weights = ctx.plan, [one for one in layers if one is not None]
    if filters is None or last is None or x.dtype != "float32" or not all(map(plan.is_known, weights)):
        return None
    if len(x.shape) != 4 or min(*window.counts, *x.shape) < 1:
        return None
    residual = x if ctx.attr("residual", 0) else None
    inner, outer = epilogue_of(_layer(ctx, 1), filters, None), epilogue_of(_layer(ctx, 1, "last_"), last, residual)
    if inner is None or outer is None:
        return None
    (batch, height, width, inputs), wide, outputs = x.shape, filters.shape[0], last.shape[0]
    (kh, kw), (sh, sw), (dh, dw), (oh, ow) = window.kernel, window.strides, window.dilations, window.counts
    image = Image(batch, height, width, wide, oh, ow, (kh, kw), (sh, sw), (dh, dw), (window.before[0], window.before[1]))
    usual = inverted_kernel(image, inputs, outputs, first is not None, inner, outer, plan.lanes, plan.cores)
    if usual is None:
        return None
    kernel = plan.scheduled(usual)
    shapes = kernel.operands[1:]
    given: list[Leaf] = []
    if first is not None:
        packed = plan.packed(first, shapes[0], partial(_matrix, panel=kernel.tiling.expand[1]), "expand")
        given += [packed, _bias(ctx, first_bias, wide)]
    slide = plan.packed(filters, shapes[-4], lambda array: array.reshape(wide, -1).T, "slide")
    project = plan.packed(last, shapes[-2], partial(_matrix, panel=kernel.tiling.project[1]), "project")
    given += [slide, _bias(ctx, slide_bias, wide), project, _bias(ctx, last_bias, outputs)]
    return plan.call(kernel, [plan.leaf(x), *given])


def _matrix(weight: np.ndarray, panel: int) -> np.ndarray:
    """(M, C, 1, 1) as panels of columns."""
    packed: np.ndarray = pack(weight.reshape(weight.shape[:2]).T, panel)
    return packed


def _bias(ctx: Context, given: Tensor | None, channels: int) -> Leaf:
    """A bias, zeros where there is none."""
    zeros = np.zeros(channels, np.float32)
    return ctx.plan.leaf(ctx.plan.constant(zeros, "zeros") if given is None else given)
