"""Convolutions and pooling: kopt's kernels for f32 images, sums over windows read in place for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from kopt.ir.graph import KOPT, MICROSOFT
from kopt.ir.nhwc_types import to_nchw, to_nhwc
from kopt.targets.kernels.choice import conv_kernel, depthwise_kernel
from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.kernel import Epilogue
from kopt.targets.kernels.packing import packed_filters
from kopt.targets.tvm_loops import Window
from kopt.targets.tvm_ops.movement import padded, windows
from kopt.targets.tvm_ops.product import activated, epilogue_of, multiplied
from kopt.targets.tvm_ops.registry import Context, translates
from kopt.targets.tvm_plan import Refused
from kopt.targets.tvm_tree import Number, Tensor


@dataclass(frozen=True)
class Geometry:
    """A window that slides along axes.

    Attributes:
        kernel: elements along each axis.
        strides: of the windows.
        dilations: of a window's elements.
        before: zeros before the first element.
        after: zeros after the last.
        counts: windows along each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, ctx: Context, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> Geometry:
        """What a node's attributes say for an input of ``sizes``."""
        count = len(sizes)
        strides, dilations = (tuple(ctx.attr(name) or (1,) * count) for name in ("strides", "dilations"))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        auto, given = ctx.attr("auto_pad") or "NOTSET", ctx.attr("pads") or (0,) * (2 * count)
        before, after = tuple(given[:count]), tuple(given[count:])
        if auto == "VALID":
            before, after = (0,) * count, (0,) * count
        elif auto != "NOTSET":
            wanted = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
            total = [max(0, (n - 1) * s + r - size) for n, s, r, size in zip(wanted, strides, reach, sizes, strict=True)]
            before = tuple(one // 2 if auto == "SAME_UPPER" else one - one // 2 for one in total)
            after = tuple(one - low for one, low in zip(total, before, strict=True))
        pairs = zip(sizes, before, after, reach, strides, strict=True)
        return cls(kernel, strides, dilations, before, after, tuple((n + low + high - r) // s + 1 for n, low, high, r, s in pairs))

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """(stride, dilation) along each axis."""
        return tuple(zip(self.strides, self.dilations, strict=True))


@translates("Conv")
@translates("FusedConv", domain=MICROSOFT)
def conv(ctx: Context, x: Tensor, w: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """Channels first: turned around and back."""
    rank = len(x.shape)
    turned = None if residual is None else ctx.plan.permuted(residual, to_nhwc(rank))
    return ctx.plan.permuted(conv_nhwc(ctx, ctx.plan.permuted(x, to_nhwc(rank)), w, bias, turned), to_nchw(rank))


@translates("ConvNhwc", "FusedConvNhwc", domain=KOPT)
def conv_nhwc(ctx: Context, x: Tensor, w: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """activation(conv(x, w) + bias + residual).  x: (N, *spatial, C), w: (M, C / group, *kernel)."""
    return convolved(ctx, x, w, Geometry.of(ctx, x.shape[1:-1], w.shape[2:]), bias, residual)


def convolved(ctx: Context, x: Tensor, w: Tensor, geometry: Geometry, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """The same with the window given; ``group`` and ``activation`` are the node's."""
    epilogue = epilogue_of(ctx, bias, residual)
    if epilogue is not None and x.dtype == "float32" and ctx.plan.is_known(w) and min(*geometry.counts, *x.shape) > 0:
        rest = [one for one in (bias, residual) if one is not None]
        y = _by_kernel(ctx, x, w, geometry, epilogue, rest)
        if y is not None:
            return y
    y = _summed(ctx, x, w, geometry)
    y = y if bias is None else ctx.apply("add", y, bias)
    return activated(ctx, y if residual is None else ctx.apply("add", y, residual))


def _by_kernel(ctx: Context, x: Tensor, w: Tensor, geometry: Geometry, epilogue: Epilogue, rest: list[Tensor]) -> Tensor | None:
    plan, group, channels, outputs = ctx.plan, ctx.attr("group"), x.shape[-1], w.shape[0]
    pointwise = set(geometry.kernel) == set(geometry.strides) == {1} and not any(geometry.before) and not any(geometry.after)
    if pointwise and group == 1:
        rows = prod(x.shape[:-1])
        flat = [plan.reshaped(one, (rows, outputs)) if len(one.shape) > 1 else one for one in rest]
        matrix = plan.permuted(plan.reshaped(w, (outputs, channels)), (1, 0))
        y = multiplied(ctx, plan.reshaped(x, (rows, channels)), matrix, epilogue, flat)
        return None if y is None else plan.reshaped(y, (*x.shape[:-1], outputs))
    depthwise = 1 < group == channels == outputs
    if len(x.shape) != 4 or not (depthwise or group == 1):
        return None
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.strides, geometry.dilations
    (batch, height, width, _), (oh, ow), pads = x.shape, geometry.counts, (geometry.before[0], geometry.before[1])
    image = Image(batch, height, width, channels, oh, ow, (kh, kw), (sh, sw), (dh, dw), pads)
    sizes = (plan.lanes, plan.cores)
    usual = depthwise_kernel(image, epilogue, *sizes) if depthwise else conv_kernel(image, outputs, epilogue, *sizes)
    if usual is None:
        return None
    kernel = plan.scheduled(usual)
    packed = plan.packed(w, kernel.operands[1], partial(packed_filters, kernel), type(kernel).__name__.lower())
    return plan.call(kernel, [plan.leaf(x), packed, *(plan.leaf(one) for one in rest)])


def _summed(ctx: Context, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    """Sums of products over windows, for any type, rank and grouping."""
    plan, group, spatial = ctx.plan, ctx.attr("group"), len(x.shape) - 2
    around = padded(ctx, x, [0, *geometry.before, 0], [0, *geometry.after, 0], Number(0, x.dtype))
    axes = tuple(range(1, 1 + spatial))
    seen = windows(plan.stored(around), axes, geometry.counts, geometry.kernel, geometry.steps)  # (N, *out, C, *kernel)
    batch, (outputs, inner) = x.shape[0], w.shape[:2]
    seen = plan.reshaped(seen, (batch, *geometry.counts, group, 1, inner, *geometry.kernel))
    weight = plan.reshaped(w, (*(1,) * (1 + spatial), group, outputs // group, inner, *geometry.kernel))
    terms = ctx.apply("mul", seen, weight)
    last = len(terms.shape)
    sums = plan.reduced(terms, list(range(last - spatial - 1, last)), "sum")
    return plan.reshaped(sums, (batch, *geometry.counts, outputs))


@translates("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool")
def pool(ctx: Context, x: Tensor) -> Tensor:
    """Channels first: turned around and back."""
    rank = len(x.shape)
    turned = ctx.plan.permuted(x, to_nhwc(rank))
    y = global_pool_nhwc(ctx, turned) if ctx.node.op.startswith("Global") else pool_nhwc(ctx, turned)
    return ctx.plan.permuted(y, to_nchw(rank))


@translates("GlobalAveragePoolNhwc", domain=KOPT)
def global_pool_nhwc(ctx: Context, x: Tensor) -> Tensor:
    """The mean or largest element of every channel."""
    axes = list(range(1, len(x.shape) - 1))
    if ctx.node.op == "GlobalMaxPool":
        return ctx.plan.reduced(x, axes, "max")
    return ctx.plan.reduced(x, axes, "sum", 1 / prod(x.shape[axis] for axis in axes))


@translates("MaxPoolNhwc", "AveragePoolNhwc", domain=KOPT)
def pool_nhwc(ctx: Context, x: Tensor) -> Tensor:
    """The largest or mean element of windows."""
    op = ctx.node.op.removesuffix("Nhwc")
    if op == "LpPool" or ctx.wants(1) or ctx.attr("ceil_mode"):
        raise Refused("only MaxPool without places and AveragePool, sizes rounded down")
    geometry = Geometry.of(ctx, x.shape[1:-1], tuple(ctx.attr("kernel_shape")))
    if len(x.shape) != 4 or x.dtype != "float32" or set(geometry.dilations) != {1}:
        return _pooled(ctx, op, x, geometry)
    kind = "max" if op == "MaxPool" else "mean_padded" if ctx.attr("count_include_pad") else "mean"
    (kh, kw), (sh, sw), (oh, ow) = geometry.kernel, geometry.strides, geometry.counts
    image = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    result = ctx.plan.new((x.shape[0], oh, ow, x.shape[3]), "float32")
    if result.size:
        loop = Window(kind, image, (oh, ow), (kh, kw), (sh, sw), (geometry.before[0], geometry.before[1]), 1)
        ctx.plan.add(loop, [ctx.plan.leaf(x)], ctx.plan.leaf(result), x.shape[0] * oh)
    return result


def _pooled(ctx: Context, op: str, x: Tensor, geometry: Geometry) -> Tensor:
    """Windows of any rank and type, read in place from a copy with a border."""
    count = len(geometry.kernel)
    if op != "MaxPool" and any((*geometry.before, *geometry.after)):
        raise Refused("means with a border over other than two axes")
    fill = Number(float("-inf") if x.dtype.startswith("float") else int(np.iinfo(x.dtype).min), x.dtype)
    around = padded(ctx, x, [0, *geometry.before, 0], [0, *geometry.after, 0], fill)
    seen = windows(ctx.plan.stored(around), tuple(range(1, 1 + count)), geometry.counts, geometry.kernel, geometry.steps)
    axes = list(range(len(seen.shape) - count, len(seen.shape)))
    scale = 1.0 if op == "MaxPool" else 1 / prod(geometry.kernel)
    y = ctx.plan.reduced(seen, axes, "max" if op == "MaxPool" else "sum", scale)
    return ctx.plan.reshaped(y, y.shape[: len(x.shape)])


@translates("LRN")
def local_response(ctx: Context, x: Tensor) -> Tensor:
    """Divided by (bias + alpha / size * sum of squares over neighbouring channels) ** beta."""
    size, rank = int(ctx.attr("size")), len(x.shape)
    before, after = [0] * rank, [0] * rank
    before[1], after[1] = (size - 1) // 2, size // 2
    around = padded(ctx, ctx.apply("mul", x, x), before, after, Number(0, x.dtype))
    seen = windows(ctx.plan.stored(around), (1,), (x.shape[1],), (size,), ((1, 1),))
    sums = ctx.plan.reduced(seen, [rank], "sum", float(ctx.attr("alpha")) / size)
    scale = ctx.apply("add", ctx.plan.reshaped(sums, x.shape), ctx.number(ctx.attr("bias")))
    return ctx.apply("div", x, ctx.apply("pow", scale, ctx.number(ctx.attr("beta"))))
