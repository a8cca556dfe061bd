"""kopt's products and convolutions on 8-bit integers: exact sums in i32, then floats, then 8 bits again where that is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.ir.graph import KOPT
from kopt.ir.int8_types import INT8_INPUTS
from kopt.targets.lowering.conv import Window, activate, conv_nhwc, direct
from kopt.targets.lowering.narrow_calls import integer_convolved, integer_multiplied
from kopt.targets.lowering.quant import to_integer
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@dataclass(frozen=True)
class Operands:
    """Inputs of an integer node; absent ones are None. See ``kopt.ir.int8_types``."""

    x: Array
    w: Array
    x_scale: Array
    x_zero_point: Array | None
    w_scale: Array
    bias: Array | None = None
    residual: Array | None = None
    y_scale: Array | None = None
    y_zero_point: Array | None = None
    residual_scale: Array | None = None
    residual_zero_point: Array | None = None

    @classmethod
    def of(cls, inputs: tuple[Array | None, ...]) -> Operands:
        """From a node's inputs by position."""
        given = {name: None if array is None else jnp.asarray(array) for name, array in zip(INT8_INPUTS, inputs, strict=False)}
        return cls(**given)

    @property
    def zero(self) -> Array:
        """X's zero point as an i32 scalar."""
        return scalar(self.x_zero_point, np.int32)

    @property
    def factor(self) -> Array:
        """What sums are multiplied with: f32, a scalar or one per output channel."""
        w_scale = self.w_scale.reshape(()) if self.w_scale.size == 1 else self.w_scale
        return scalar(self.x_scale, np.float32) * w_scale

    def scales(self) -> Any:
        """What follows the sums, as kernels take it."""
        from kopt.targets.kernels.narrow_call import IntegerScales

        y, added = (None if one is None else scalar(one, np.float32) for one in (self.y_scale, self.residual_scale))
        y_zero, residual_zero = (scalar(one, np.int32) for one in (self.y_zero_point, self.residual_zero_point))
        return IntegerScales(self.zero, self.factor, self.bias, y, y_zero, added, residual_zero)

    @property
    def added(self) -> Array | None:
        """The residual in f32."""
        if self.residual is None or self.residual_scale is None:
            return self.residual
        wide = self.residual.astype(np.int32) - scalar(self.residual_zero_point, np.int32)
        return wide.astype(np.float32) * scalar(self.residual_scale, np.float32)


def scalar(value: Array | None, dtype: Any) -> Array:
    """The only element of an array, 0 where there is none."""
    return jnp.zeros((), dtype) if value is None else value.reshape(()).astype(dtype)


def shifted(x: Array, zero: Array) -> tuple[Array, Array]:
    """X as i8, and its zero point then: products of u8 with i8 have no fast form in XLA.  zero: i32."""
    if x.dtype == np.int8:
        return x, zero
    return lax.bitcast_convert_type(x ^ np.uint8(0x80), np.int8), zero - 128


def finished(ctx: LoweringContext, given: Operands, total: Array) -> Array:
    """What follows the sums: scale, bias, residual, activation, and 8 bits where the node has a y_scale."""
    y = total.astype(np.float32) * given.factor
    y = y if given.bias is None else y + given.bias
    y = activate(ctx, y if given.added is None else y + given.added)
    if given.y_scale is None:
        return y
    zero = scalar(given.y_zero_point, np.int32)
    return to_integer(y * (1 / scalar(given.y_scale, np.float32)), zero, ctx.node.output.tensor.dtype.numpy)


@lowers("Int8Product", domain=KOPT)
def int8_product(ctx: LoweringContext, *inputs: Array | None) -> Array:
    """activation(x @ w * scale + bias + residual).  x: u8 or i8 (..., K), w: i8 (K, N)."""
    given = Operands.of(inputs)
    fast = integer_multiplied(ctx, given, given.x, given.w)
    if fast is not None:
        return fast
    x, zero = shifted(given.x, given.zero)
    rows = x.reshape(prod(x.shape[:-1]), x.shape[-1])
    total = jnp.matmul(rows, given.w, preferred_element_type=np.int32)
    total = total - zero * given.w.astype(np.int32).sum(0, dtype=np.int32)
    return finished(ctx, given, total.reshape(*x.shape[:-1], given.w.shape[1]))


@lowers("Int8ConvNhwc", domain=KOPT)
def int8_conv_nhwc(ctx: LoweringContext, *inputs: Array | None) -> Array:
    """activation(conv(x, w) * scale + bias + residual).  x: u8 or i8 (N, *spatial, C), w: i8 (M, C / group, *kernel)."""
    given = Operands.of(inputs)
    window = Window.of(ctx, given.x.shape[1:-1], given.w.shape[2:])
    group = int(ctx.attr("group", 1))
    fast = integer_convolved(ctx, given, window, group)
    return finished(ctx, given, convolution(given.x, given.w, given.zero, window, group)) if fast is None else fast


def convolution(x: Array, w: Array, zero: Array, window: Window, group: int) -> Array:
    """The sums of a convolution in i32; borders count as 0.  zero: x's zero point, i32."""
    x, zero = shifted(x, zero)
    borders = [(0, 0, 0), *((low, high, 0) for low, high in window.pads), (0, 0, 0)]
    x = lax.pad(x, zero.astype(np.int8), borders)
    inside = Window(window.kernel, window.strides, window.dilations, ((0, 0),) * len(window.kernel))
    if 1 < group == x.shape[-1]:
        return conv_nhwc(x.astype(np.int32) - zero, w.astype(np.int32), inside, group, {})
    sums = w.astype(np.int32).sum(range(1, w.ndim), dtype=np.int32)
    return direct(x, w, inside, group) - zero * sums
