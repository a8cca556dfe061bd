"""What calls of kernels on narrow numbers share: packing weights in words, what integer sums start from, and the meaning in plain JAX."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

from kopt.hardware import Target
from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.kernel import result_dtype
from kopt.targets.kernels.narrow import Formats, Narrow, has_instruction
from kopt.targets.kernels.packing import pack, unpack
from kopt.targets.kernels.product_call import finished
from kopt.targets.lowering.quant import to_integer

FORMATS = {np.dtype(np.float32): "f32", np.dtype(np.uint8): "u8", np.dtype(np.int8): "i8", np.dtype(ml_dtypes.bfloat16): "bf16"}
"""Names of element types in ``Formats``."""


@dataclass(frozen=True)
class IntegerScales:
    """What follows the sums of an integer kernel, as traced arrays.

    Attributes:
        zero: x's zero point, i32 scalar.
        factor: x_scale * w_scale, f32 scalar or (N,).
        bias: f32 (N,), or None.
        y_scale: f32 scalar, or None where the result is f32.
        y_zero: i32 scalar.
        residual_scale: f32 scalar, or None where there is no residual of 8 bits.
        residual_zero: i32 scalar.
    """

    zero: Any
    factor: Any
    bias: Any | None = None
    y_scale: Any | None = None
    y_zero: Any = 0
    residual_scale: Any | None = None
    residual_zero: Any = 0

    def operands(self, w: Any, signed: bool) -> list[Any]:
        """``Narrow.others`` of an integer kernel.  w: i8 (K, N); signed: x is i8, which the kernel makes u8 by adding 128."""
        columns = w.shape[1]
        start = -(self.zero + 128 * signed) * w.astype(np.int32).sum(0, dtype=np.int32)
        bias = jnp.zeros(columns, np.float32) if self.bias is None else self.bias
        pair = jnp.stack([jnp.broadcast_to(self.factor, (columns,)), bias]).astype(np.float32)
        inverse = 1.0 if self.y_scale is None else 1 / self.y_scale
        step = 1.0 if self.residual_scale is None else self.residual_scale
        numbers = jnp.stack([jnp.asarray(value, np.float32).reshape(()) for value in (inverse, self.y_zero, step, self.residual_zero)])
        return [jnp.asarray(start, np.int32), pair, numbers]

    def border(self, signed: bool) -> Any:
        """A word of four zero points, i32 (1,), in x's own type."""
        byte = self.zero & 255 if signed else self.zero
        word = (byte.astype(np.uint32) * np.uint32(0x01010101)).reshape(1)
        return lax.bitcast_convert_type(word, np.int32)


def can_narrow(x: str, columns: int, target: Target) -> bool:
    """Whether the target has the instruction, and there are columns enough for a register."""
    return has_instruction(x, target) and columns >= 16


def padded(array: Any, axis: int, multiple: int) -> Any:
    """Zeros behind ``array`` along ``axis``, up to a multiple."""
    more = -array.shape[axis] % multiple
    if not more:
        return array
    widths = [(0, more if k == axis % array.ndim else 0) for k in range(array.ndim)]
    return jnp.pad(array, widths)


def pack_words(w: Any, panel: int, per_word: int) -> Any:
    """(K, N) ==> (panels, words, panel, per word); K is a multiple of the numbers in a word."""
    depth, columns = w.shape
    count = depth // per_word
    turned = w.reshape(count, per_word, columns).transpose(0, 2, 1).reshape(count, columns * per_word)
    packed = pack(turned, panel * per_word)
    return packed.reshape(packed.shape[0], count, panel, per_word)


def unpack_words(packed: Any, columns: int) -> Any:
    """The inverse of ``pack_words``."""
    panels, count, panel, per_word = packed.shape
    turned = unpack(packed.reshape(panels, count, panel * per_word), columns * per_word)
    return turned.reshape(count, columns, per_word).transpose(0, 2, 1).reshape(count * per_word, columns)


def signed_bytes(x: Any) -> Any:
    """u8 (or i8 made u8 by adding 128) less 128, as i8: what XLA multiplies with i8."""
    return x if x.dtype == np.int8 else lax.bitcast_convert_type(x ^ np.uint8(0x80), np.int8)


def narrow_finished(kernel: Narrow, sums: Any, *rest: Any) -> Any:
    """What follows sums in plain JAX: f32 of bf16 kernels; of integers i32, with what they start from."""
    formats, dtype = kernel.formats, result_dtype(kernel)  # type: ignore[arg-type]
    if not formats.is_integer:
        wide = [array.astype(np.float32) for array in rest]
        return finished(kernel.epilogue, sums, *wide).astype(dtype)
    _, columns, numbers, *others = rest
    y = sums.astype(np.float32) * columns[0] + columns[1]
    added = [others[-1]] if kernel.epilogue.residual else []
    if added and formats.residual != "f32":
        added = [(added[0].astype(np.float32) - numbers[3]) * numbers[2]]
    y = finished(replace(kernel.epilogue, bias=False), y, *added)
    return y if formats.result == "f32" else to_integer(y * numbers[0], numbers[1], dtype)


def integer_sums(start: Any, product: Any, w: Any) -> Any:
    """What the kernel sums: ``product`` is that of ``signed_bytes``, 128 less than what the kernel multiplies.  w: (K, N)."""
    return start + product + 128 * w.astype(np.int32).sum(0, dtype=np.int32)


def formats_of(x: Any, residual: Any | None, result: str) -> Formats:
    """Element types of traced operands."""
    return Formats(FORMATS[np.dtype(x.dtype)], result, "" if residual is None else FORMATS[np.dtype(residual.dtype)])


def slid(image: Image, x: Any, matrix: Any, border: Any, sums: Any) -> Any:
    """A convolution of narrow numbers by XLA.

    Args:
        image: sizes.
        x: (N, H, W, C).
        matrix: (kh * kw * C, M) of x's type.
        border: what lies around x, a scalar of its type.
        sums: element type of the sums.
    """
    needed, sizes = (image.needed_rows(image.out_height), image.needed_width), (image.height, image.width)
    pads = [(before, need - size - before, 0) for before, need, size in zip(image.pads, needed, sizes, strict=True)]
    return lax.conv_general_dilated(
        lax.pad(x, border, [(0, 0, 0), *pads, (0, 0, 0)]),
        matrix.reshape(*image.kernel, image.channels, matrix.shape[1]),
        image.strides,
        "VALID",
        rhs_dilation=image.dilations,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=sums,
    )
