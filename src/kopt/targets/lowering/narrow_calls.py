"""Which nodes on narrow numbers go through kernels, and how their operands are handed over."""

from __future__ import annotations

from typing import Any

import ml_dtypes

from kopt.targets.lowering.kernel_calls import epilogue_of
from kopt.targets.lowering.registry import Array, LoweringContext


def calls_of(ctx: LoweringContext, x: Array) -> Any | None:
    """Where the program's kernels are kept, None where it may call none on ``x``."""
    return ctx.options.get("kernel_calls") if 0 not in x.shape else None


def result_format(ctx: LoweringContext) -> str:
    """The element type of the node's result, as kernels name it."""
    return ctx.node.output.tensor.dtype.value


def image_of(x: Array, weight: Array, window: Any, group: int) -> Any | None:
    """Sizes of a convolution as kernels take them; None where they have no form for it.

    Args:
        x: (N, H, W, C).
        weight: (M, C / group, kh, kw).
        window: strides, dilations and pads.
        group: of channels: 1, or as many as there are.
    """
    if x.ndim != 4 or group not in (1, x.shape[3]) or (group > 1 and weight.shape[0] != group):
        return None
    out_height, out_width = window.output(x.shape[1:3])
    if min(out_height, out_width) < 1:
        return None
    from kopt.targets.kernels.conv import Image

    pads, (batch, height, width, channels) = (window.pads[0][0], window.pads[1][0]), x.shape
    return Image(batch, height, width, channels, out_height, out_width, window.kernel, window.strides, window.dilations, pads)


def is_product(window: Any, group: int) -> bool:
    """Whether a convolution is a product of pixels."""
    return group == 1 and window.kernel == window.strides == (1, 1) and not any(map(any, window.pads))


def integer_multiplied(ctx: LoweringContext, given: Any, x: Array, w: Array) -> Array | None:
    """An Int8Product by a kernel, None where none takes it.

    Args:
        ctx: of the node.
        given: its operands.
        x: u8 or i8 (..., K).
        w: i8 (K, N).
    """
    calls, epilogue = calls_of(ctx, x), epilogue_of(ctx, given.bias, given.residual)
    if calls is None or epilogue is None:
        return None
    from kopt.targets.kernels.int8_call import multiply

    return multiply(calls, x, w, given.scales(), given.residual, result_format(ctx), epilogue)


def integer_convolved(ctx: LoweringContext, given: Any, window: Any, group: int) -> Array | None:
    """An Int8ConvNhwc by a kernel, None where none takes it."""
    calls, epilogue = calls_of(ctx, given.x), epilogue_of(ctx, given.bias, given.residual)
    image = image_of(given.x, given.w, window, group)
    if calls is None or epilogue is None or image is None:
        return None
    if is_product(window, group):
        return integer_multiplied(ctx, given, given.x, given.w.reshape(given.w.shape[:2]).T)
    from kopt.targets.kernels import int8_call

    if group > 1:
        return None
    return int8_call.convolve(calls, given.x, given.w, image, given.scales(), given.residual, result_format(ctx), epilogue)


def halves_multiplied(ctx: LoweringContext, x: Array, w: Array, bias: Array | None, residual: Array | None) -> Array | None:
    """activation(x @ w + bias + residual) of bf16 by a kernel, None where none takes it.  x: (..., K), w: (K, N)."""
    calls, epilogue = calls_of(ctx, x), epilogue_of(ctx, bias, residual)
    if calls is None or epilogue is None or not x.dtype == w.dtype == ml_dtypes.bfloat16:
        return None
    from kopt.targets.kernels.bf16_call import multiply

    return multiply(calls, x, w, (bias, residual), result_format(ctx), epilogue)


def halves_convolved(
    ctx: LoweringContext, x: Array, weight: Array, window: Any, bias: Array | None, residual: Array | None
) -> Array | None:
    """activation(conv(x) + bias + residual) of bf16 by a kernel, None where none takes it."""
    group = int(ctx.attr("group", 1))
    calls, epilogue = calls_of(ctx, x), epilogue_of(ctx, bias, residual)
    image = image_of(x, weight, window, group) if group == 1 else None
    if calls is None or epilogue is None or image is None or not x.dtype == weight.dtype == ml_dtypes.bfloat16:
        return None
    if is_product(window, group):
        return halves_multiplied(ctx, x, weight.reshape(weight.shape[:2]).T, bias, residual)
    from kopt.targets.kernels.bf16_call import convolve

    return convolve(calls, x, weight, image, (bias, residual), result_format(ctx), epilogue)
