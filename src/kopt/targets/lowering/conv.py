"""Convolutions. One implementation, channels last; the channels-first operators transpose around it.

Which formulation runs is decided by shape (``_formulation``); on the CPU a depthwise convolution must never reach
``lax.conv``, which runs it at 1-2 GFLOP/s. Source: measured with jaxlib 0.10.2 on two AVX-512 cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.ir.graph import KOPT, MICROSOFT
from kopt.targets.lowering.activation import FUSED_ACTIVATIONS, activated
from kopt.targets.lowering.kernel_calls import convolved
from kopt.targets.lowering.matmul import dot, less_zero_point
from kopt.targets.lowering.registry import Array, LoweringContext, lowers
from kopt.targets.lowering.winograd import conv3x3_winograd


@dataclass(frozen=True)
class Window:
    """How a kernel slides: one entry per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, ctx: LoweringContext, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
        """From a node's attributes; ``auto_pad`` resolved for the spatial sizes."""
        count = len(spatial)
        strides = tuple(ctx.attr("strides") or (1,) * count)
        dilations = tuple(ctx.attr("dilations") or (1,) * count)
        auto = str(ctx.attr("auto_pad", "NOTSET"))
        if auto.startswith("SAME"):
            pads = []
            for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
                total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
                small, large = total // 2, total - total // 2
                pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
        elif auto == "VALID" or not ctx.attr("pads"):
            pads = [(0, 0)] * count
        else:
            flat = ctx.attr("pads")
            pads = [(int(flat[k]), int(flat[k + count])) for k in range(count)]
        return cls(tuple(int(k) for k in kernel), strides, dilations, tuple(pads))

    @property
    def reach(self) -> tuple[int, ...]:
        """Input elements a dilated kernel spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def output(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Output sizes."""
        return tuple(
            (size + low + high - r) // s + 1 for size, (low, high), r, s in zip(spatial, self.pads, self.reach, self.strides, strict=True)
        )


def conv_nhwc(x: Array, weight: Array, window: Window, group: int, options: Any) -> Array:
    """Convolution without bias.

    Args:
        x: (N, *spatial, C).
        weight: (M, C / group, *kernel), as ONNX stores it.
        window: strides, dilations and pads.
        group: number of channel groups.
        options: "device" and "conv3x3" ("direct", "im2col", "winograd2", "winograd4") decide the formulation.

    Returns:
        (N, *output, M) in f32 for 16-bit floats, else in x's dtype.
    """
    kind = _formulation(x, weight, window, group, options)
    if kind == "dot":
        return _as_dot(x, weight, window)
    if kind == "depthwise":
        return _depthwise(x, weight, window)
    if kind == "im2col":
        return _im2col(x, weight, window)
    if kind.startswith("winograd"):
        return conv3x3_winograd(x, weight, window.pads, tile=int(kind[-1]))
    return direct(x, weight, window, group)


def _formulation(x: Array, weight: Array, window: Window, group: int, options: Any) -> str:
    """The fastest known form for a shape.

    Source: per-shape timings of the forms in isolation (ResNet-50, MobileNetV2 and ConvNeXt shapes; sequences and volumes).
    """
    if options.get("device", "cpu") != "cpu" or 0 in x.shape:
        return "direct"
    channels, outputs, padded = x.shape[-1], weight.shape[0], any(map(any, window.pads))
    if group == 1 and prod(window.kernel) == 1 and not padded:
        return "dot"
    if group == channels and outputs % channels == 0 and group > 1:
        return "depthwise"
    if group != 1:
        return "direct"
    if window.strides == window.kernel and not padded and prod(window.dilations) == 1:
        return "im2col"  # patches do not overlap: a reshape and a dot
    if x.ndim == 4 and channels * prod(window.kernel) <= 32:
        return "im2col"
    if window.kernel == (3, 3) and window.dilations == (1, 1):
        height, width = window.output(x.shape[1:3])
        if height * width <= 64:
            return "im2col"
        if window.strides == (1, 1) and x.dtype == np.float32:
            return str(options.get("conv3x3") or _three_by_three(channels, outputs))
    return "direct"


def _three_by_three(channels: int, outputs: int) -> str:
    """Winograd's transforms pay once there are enough channels to share them.

    The 4x4 tile is no faster in a whole network, needs four times the weights (2x2: 1.8 times), and compiles longer.
    Source: ResNet-50 as a whole on two AVX-512 cores: 0.91 of the direct form's latency with 2x2 tiles, 0.94 with 4x4.
    """
    if min(channels, outputs) < 32:
        return "direct"
    return "winograd2"


def _padded(x: Array, window: Window) -> Array:
    if not any(map(any, window.pads)):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in window.pads), (0, 0, 0)])


def _as_dot(x: Array, weight: Array, window: Window) -> Array:
    x = x[:, *(slice(None, None, stride) for stride in window.strides)]
    matrix = weight.reshape(weight.shape[0], weight.shape[1]).T
    return _wide_dot(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _wide_dot(a: Array, b: Array) -> Array:
    if a.dtype.itemsize == 2 and jnp.issubdtype(a.dtype, jnp.floating):
        return jnp.matmul(a, b, preferred_element_type=np.float32)
    return dot(a, b)


def _taps(x: Array, window: Window) -> list[Array]:
    """One strided view of the padded input per kernel element, in row-major order of the kernel."""
    padded, sizes = _padded(x, window), window.output(x.shape[1:-1])
    taps = []
    for place in np.ndindex(*window.kernel):
        start = [step * dilation for step, dilation in zip(place, window.dilations, strict=True)]
        limit = [low + (size - 1) * stride + 1 for low, size, stride in zip(start, sizes, window.strides, strict=True)]
        taps.append(lax.slice(padded, (0, *start, 0), (x.shape[0], *limit, x.shape[-1]), (1, *window.strides, 1)))
    return taps


def _depthwise(x: Array, weight: Array, window: Window) -> Array:
    """Shift and multiply: one fused pass over the output, as many multiply-adds each as the kernel has elements."""
    multiplier = weight.shape[0] // x.shape[-1]
    taps = _taps(x, window)
    rows = weight.reshape(weight.shape[0], -1).T  # (elements of the kernel, C * multiplier)
    wide = np.float32 if x.dtype.itemsize == 2 else x.dtype
    total = None
    for k, tap in enumerate(taps):
        widened = tap.astype(wide)
        if multiplier > 1:
            widened = jnp.repeat(widened, multiplier, axis=-1)
        term = widened * rows[k].astype(wide)
        total = term if total is None else total + term
    return total


def _im2col(x: Array, weight: Array, window: Window) -> Array:
    """Patches side by side, then one product."""
    sizes, count = window.output(x.shape[1:-1]), len(window.kernel)
    matrix = weight.transpose(*range(2, weight.ndim), 1, 0).reshape(-1, weight.shape[0])
    if window.strides == window.kernel and not any(map(any, window.pads)) and prod(window.dilations) == 1:
        cut = x[:, *(slice(size * k) for size, k in zip(sizes, window.kernel, strict=True))]
        pairs = [side for pair in zip(sizes, window.kernel, strict=True) for side in pair]
        order = (0, *range(1, 2 * count, 2), *range(2, 2 * count + 1, 2), 2 * count + 1)
        patches = cut.reshape(x.shape[0], *pairs, x.shape[-1]).transpose(order)
    else:
        patches = jnp.concatenate(_taps(x, window), axis=-1)
    rows = patches.reshape(x.shape[0] * prod(sizes), -1)
    return _wide_dot(rows, matrix).reshape(x.shape[0], *sizes, weight.shape[0])


def direct(x: Array, weight: Array, window: Window, group: int) -> Array:
    """``lax.conv`` on x: (N, *spatial, C), weight: (M, C / group, *kernel); i32 and narrower integers give i32."""
    count = x.ndim - 2
    letters = "DHW"[3 - count :] if count <= 3 else "".join(chr(ord("a") + k) for k in range(count))
    spec = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    kernel = jnp.transpose(weight, (*range(2, weight.ndim), 1, 0))
    low = x.dtype.itemsize == 2 and jnp.issubdtype(x.dtype, jnp.floating)
    integer = jnp.issubdtype(x.dtype, jnp.integer)
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        list(window.pads),
        rhs_dilation=window.dilations,
        dimension_numbers=spec,
        feature_group_count=group,
        preferred_element_type=np.float32 if low else (np.int32 if integer else None),
    )


def channels_last(x: Array) -> Array:
    """(N, C, *spatial) ==> (N, *spatial, C)."""
    return jnp.moveaxis(x, 1, -1)


def channels_first(x: Array) -> Array:
    """(N, *spatial, C) ==> (N, C, *spatial)."""
    return jnp.moveaxis(x, -1, 1)


def _conv(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None) -> Array:
    """Convolution with bias on channels-last activations, in x's dtype."""
    window = Window.of(ctx, x.shape[1:-1], weight.shape[2:])
    y = conv_nhwc(x, jnp.asarray(weight), window, ctx.attr("group", 1), ctx.options)
    return (y if bias is None else y + jnp.asarray(bias).astype(y.dtype)).astype(x.dtype)


@lowers("Conv")
def conv(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x: (N, C, *spatial), weight: (M, C / group, *kernel)."""
    return channels_first(_conv(ctx, channels_last(jnp.asarray(x)), weight, bias))


@lowers("ConvNhwc", domain=KOPT)
def lower_conv_nhwc(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x: (N, *spatial, C), weight: (M, C / group, *kernel)."""
    return _conv(ctx, jnp.asarray(x), weight, bias)


def activate(ctx: LoweringContext, y: Array) -> Array:
    """The activation of a com.microsoft fused operator."""
    name = str(ctx.attr("activation", ""))
    if name not in FUSED_ACTIVATIONS:
        raise ctx.unsupported(f"unknown activation '{name}'")
    return activated(name, y, tuple(ctx.attr("activation_params") or ()))


@lowers("FusedConv", domain=MICROSOFT)
def fused_conv(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None = None, added: Array | None = None) -> Array:
    """activation(Conv(x) + added)."""
    y = channels_first(_conv(ctx, channels_last(jnp.asarray(x)), weight, bias))
    return activate(ctx, y if added is None else y + added)


@lowers("FusedConvNhwc", domain=KOPT)
def fused_conv_nhwc(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None = None, added: Array | None = None) -> Array:
    """activation(Conv(x) + added), channels last."""
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    fast = convolved(ctx, x, weight, Window.of(ctx, x.shape[1:-1], weight.shape[2:]), bias, added)
    if fast is not None:
        return fast
    y = _conv(ctx, x, weight, bias)
    return activate(ctx, y if added is None else y + added)


@lowers("ConvInteger")
def conv_integer(ctx: LoweringContext, x: Array, weight: Array, x_zero: Array | None = None, w_zero: Array | None = None) -> Array:
    """(X - x_zero) * (W - w_zero) in i32; padding is x's zero point, which is 0 after the subtraction."""
    wide = channels_last(less_zero_point(x, x_zero, 1))
    window = Window.of(ctx, wide.shape[1:-1], weight.shape[2:])
    return channels_first(direct(wide, less_zero_point(weight, w_zero, 0), window, ctx.attr("group", 1)))


def _conv_transpose(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None) -> Array:
    """x: (N, *spatial, C), weight: (C, M / group, *kernel)."""
    spatial, kernel, group = x.shape[1:-1], weight.shape[2:], ctx.attr("group", 1)
    count = len(spatial)
    strides, dilations = tuple(ctx.attr("strides") or (1,) * count), tuple(ctx.attr("dilations") or (1,) * count)
    extra = tuple(ctx.attr("output_padding") or (0,) * count)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _transposed_pads(ctx, spatial, strides, reach, extra)
    flipped = jnp.flip(jnp.asarray(weight), tuple(range(2, weight.ndim)))
    c, m = weight.shape[0], weight.shape[1]
    swapped = flipped.reshape(group, c // group, m, *kernel).swapaxes(1, 2).reshape(group * m, c // group, *kernel)
    y = lax.conv_general_dilated(
        x,
        jnp.transpose(swapped, (*range(2, weight.ndim), 1, 0)),
        (1,) * count,
        [(r - 1 - low, r - 1 - high + more) for r, (low, high), more in zip(reach, pads, extra, strict=True)],
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=(f"N{'DHW'[3 - count :]}C", f"{'DHW'[3 - count :]}IO", f"N{'DHW'[3 - count :]}C"),
        feature_group_count=group,
    )
    return y if bias is None else y + jnp.asarray(bias)


def _transposed_pads(
    ctx: LoweringContext, spatial: Sequence[int], strides: Sequence[int], reach: Sequence[int], extra: Sequence[int]
) -> list[tuple[int, int]]:
    count, auto, wanted = len(spatial), str(ctx.attr("auto_pad", "NOTSET")), ctx.attr("output_shape")
    if auto.startswith("SAME") and not wanted:
        wanted = [size * s for size, s in zip(spatial, strides, strict=True)]
    if not wanted:
        flat = ctx.attr("pads") or (0,) * (2 * count)
        return [(int(flat[k]), int(flat[k + count])) for k in range(count)] if auto == "NOTSET" else [(0, 0)] * count
    pads = []
    for size, s, r, more, want in zip(spatial, strides, reach, extra, list(wanted)[-count:], strict=True):
        total = (size - 1) * s + more + r - int(want)
        start = 0 if total < 0 else total // 2 if auto == "SAME_UPPER" else total - total // 2
        pads.append((start, total - start))
    return pads


@lowers("ConvTranspose")
def conv_transpose(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """The gradient of a convolution: x: (N, C, *spatial), weight: (C, M / group, *kernel)."""
    return channels_first(_conv_transpose(ctx, channels_last(jnp.asarray(x)), weight, bias)).astype(x.dtype)


@lowers("ConvTransposeNhwc", domain=KOPT)
def conv_transpose_nhwc(ctx: LoweringContext, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """ConvTranspose on channels-last activations."""
    return _conv_transpose(ctx, jnp.asarray(x), weight, bias).astype(x.dtype)
