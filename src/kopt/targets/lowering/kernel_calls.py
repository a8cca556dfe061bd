"""Which nodes go through kernels, and how their operands are handed over. Kernels take f32 alone, and run on the CPU."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from kopt.targets.lowering.registry import Array, LoweringContext


def may_call(ctx: LoweringContext, x: Array) -> bool:
    """Whether the program may call kernels on ``x``."""
    return ctx.options.get("kernel_calls") is not None and x.dtype == np.float32 and 0 not in x.shape


def epilogue_of(ctx: LoweringContext, bias: Array | None, residual: Array | None) -> Any | None:
    """The node's bias, residual and activation as kernels take them; None for an activation they do not have."""
    from kopt.targets.kernels.kernel import Epilogue

    activation, params = str(ctx.attr("activation", "")), ctx.attr("activation_params")
    return Epilogue.of(activation, params, bias=bias is not None, residual=residual is not None)


def multiplied(ctx: LoweringContext, x: Array, w: Array, bias: Array | None, residual: Array | None) -> Array | None:
    """activation(x @ w + bias + residual) by a kernel, None where none takes it.  x: (..., K), w: (K, N)."""
    epilogue = epilogue_of(ctx, bias, residual) if may_call(ctx, x) else None
    if epilogue is None:
        return None
    from kopt.targets.kernels import product_call

    calls = ctx.options["kernel_calls"]
    if not product_call.can_multiply(prod(x.shape[:-1]), w.shape[0], w.shape[1], calls.target):
        return None
    return product_call.multiply(calls, x, w, bias, residual, epilogue)


def convolved(ctx: LoweringContext, x: Array, weight: Array, window: Any, bias: Array | None, residual: Array | None) -> Array | None:
    """activation(conv(x) + bias + residual) by a kernel, None where none takes it.

    Args:
        ctx: of the node; its attributes name group and activation.
        x: (N, H, W, C).
        weight: (M, C / group, kh, kw).
        window: strides, dilations and pads.
        bias: (M,) or None.
        residual: (N, OH, OW, M) or None.
    """
    channels, group = x.shape[-1], ctx.attr("group", 1)
    depthwise = 1 < group == channels == weight.shape[0]
    epilogue = epilogue_of(ctx, bias, residual) if may_call(ctx, x) and x.ndim == 4 and (group == 1 or depthwise) else None
    out_height, out_width = window.output(x.shape[1:3]) if epilogue else (0, 0)
    if epilogue is None or min(out_height, out_width) < 1:
        return None
    if window.kernel == window.strides == (1, 1) and not any(map(any, window.pads)) and not depthwise:
        return multiplied(ctx, x, weight.reshape(weight.shape[:2]).T, bias, residual)
    from kopt.targets.kernels import conv_call

    image = _image(x, channels, window)
    rest = [array for array in (bias, residual) if array is not None]
    convolve = conv_call.convolve_depthwise if depthwise else conv_call.convolve
    return convolve(ctx.options["kernel_calls"], x, weight, image, rest, epilogue)


def _image(x: Array, channels: int, window: Any) -> Any:
    """Sizes of a convolution of ``channels`` over the pixels of x: (N, H, W, ...)."""
    from kopt.targets.kernels.conv import Image

    (batch, height, width), pads = x.shape[:3], (window.pads[0][0], window.pads[1][0])
    out_height, out_width = window.output((height, width))
    return Image(batch, height, width, channels, out_height, out_width, window.kernel, window.strides, window.dilations, pads)


def inverted(inner: LoweringContext, outer: LoweringContext, x: Array, layers: tuple[Array | None, ...], window: Any) -> Array | None:
    """An inverted residual block by one kernel, None where none takes it or the layers one by one are faster.

    Args:
        inner: whose attributes name the activation of the first two layers.
        outer: the same of the last layer.
        x: (N, H, W, C).
        layers: (E, C, 1, 1) and bias, (E, 1, kh, kw) and bias, (M, E, 1, 1) and bias; None for what is left out.
        window: of the middle layer.
    """
    first, first_bias, filters, slide_bias, last, last_bias = layers
    if filters is None or last is None or not may_call(inner, x) or x.ndim != 4 or min(window.output(x.shape[1:3])) < 1:
        return None
    residual = x if inner.attr("residual") else None
    before, after = epilogue_of(inner, slide_bias, None), epilogue_of(outer, last_bias, residual)
    if before is None or after is None:
        return None
    from kopt.targets.kernels.inverted_call import invert

    matrices = (None if first is None else first.reshape(first.shape[:2]).T, last.reshape(last.shape[:2]).T)
    operands = (matrices[0], first_bias, filters, slide_bias, matrices[1], last_bias)
    return invert(inner.options["kernel_calls"], x, operands, _image(x, filters.shape[0], window), before, after)


def takes_kernel(ctx: LoweringContext, q: Array) -> bool:
    """Whether an Attention node is one that a kernel computes: f32, no soft cap, and nothing but the result is read."""
    plain = not ctx.attr("softcap", 0.0) and not ctx.attr("softmax_precision") and not any(ctx.wants(k) for k in (1, 2, 3))
    return plain and may_call(ctx, q)


def attended(ctx: LoweringContext, q: Array, k: Array, v: Array, mask: Array | None) -> Array | None:
    """softmax(q k^T * scale + mask) v by a kernel, None where none takes it.  q: (B, H, Tq, D); mask: broadcast to the scores."""
    from kopt.targets.kernels.attention_call import attend

    given = ctx.attr("scale")
    scale = 1 / np.sqrt(q.shape[-1]) if given is None else float(given)
    return attend(ctx.options["kernel_calls"], q, k, v, mask, scale)
