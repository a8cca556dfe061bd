"""Products and convolutions of traced 8-bit integers through the kernels, and their meaning in plain JAX."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.conv_tiling import conv_tiling
from kopt.targets.kernels.kernel import Epilogue, lanes
from kopt.targets.kernels.narrow import Int8Product, words
from kopt.targets.kernels.narrow_call import (
    IntegerScales,
    can_narrow,
    formats_of,
    integer_sums,
    narrow_finished,
    pack_words,
    padded,
    signed_bytes,
    slid,
    unpack_words,
)
from kopt.targets.kernels.narrow_conv import Int8Conv
from kopt.targets.kernels.product_call import MIN_MULTIPLIES
from kopt.targets.kernels.tiling import product_tiling

BYTES = 4
"""Numbers in a word."""


def multiply(
    calls: KernelCalls, x: Any, w: Any, scales: IntegerScales, residual: Any | None, result: str, epilogue: Epilogue
) -> Any | None:
    """The result of an Int8Product, or None where the kernel does not take these sizes.

    Args:
        calls: where the program's kernels are kept.
        x: u8 or i8 (..., K).
        w: i8 (K, N).
        scales: what follows the sums.
        residual: f32, u8 or i8 of the result's shape, or None.
        result: "f32", "u8" or "i8".
        epilogue: residual and activation; the bias is in ``scales``.
    """
    rows, (depth, columns) = prod(x.shape[:-1]), w.shape
    formats = formats_of(x, residual, result)
    if not can_narrow(formats.x, columns, calls.target) or min(rows, depth) < 1 or rows * depth * columns < MIN_MULTIPLIES:
        return None
    flat, w = padded(x.reshape(rows, depth), 1, BYTES), padded(w, 0, BYTES)
    tiling = product_tiling(rows, words(depth, formats), columns, lanes(calls.target), calls.target.num_cores)
    kernel = Int8Product(rows, w.shape[0], columns, tiling, formats, replace(epilogue, bias=True))
    operands = [flat, pack_words(w, tiling.panel, BYTES), *scales.operands(w, formats.x == "i8")]
    operands += [] if residual is None else [residual.reshape(rows, columns)]
    return calls.call(kernel, operands, product_meaning).reshape(*x.shape[:-1], columns)


def product_meaning(kernel: Int8Product, x: Any, packed: Any, *rest: Any) -> Any:
    """The kernel of products in plain JAX."""
    w = unpack_words(packed, kernel.n)
    product = jnp.matmul(signed_bytes(x), w, preferred_element_type=np.int32)
    return narrow_finished(kernel, integer_sums(rest[0], product, w), *rest)


def convolve(
    calls: KernelCalls,
    x: Any,
    weight: Any,
    image: Image,
    scales: IntegerScales,
    residual: Any | None,
    result: str,
    epilogue: Epilogue,
) -> Any | None:
    """The result of an Int8ConvNhwc of all channels with all, or None where the kernel does not take these sizes.

    Args:
        calls: where the program's kernels are kept.
        x: u8 or i8 (N, H, W, C).
        weight: i8 (M, C, kh, kw).
        image: sizes.
        scales: what follows the sums.
        residual: f32, u8 or i8 (N, OH, OW, M), or None.
        result: "f32", "u8" or "i8".
        epilogue: residual and activation; the bias is in ``scales``.
    """
    outputs, formats = weight.shape[0], formats_of(x, residual, result)
    if not can_narrow(formats.x, outputs, calls.target):
        return None
    x, weight = padded(x, 3, BYTES), padded(weight, 1, BYTES)
    image = replace(image, channels=x.shape[3])
    inner = replace(image, channels=x.shape[3] // BYTES)
    found = conv_tiling(inner, outputs, lanes(calls.target), calls.target.num_cores)
    if found is None:
        return None
    kernel = Int8Conv(image, outputs, found[1], formats, replace(epilogue, bias=True))
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, outputs)
    signed = formats.x == "i8"
    operands = [x, pack_words(matrix, found[1].panel, BYTES), *scales.operands(matrix, signed), scales.border(signed)]
    return calls.call(kernel, operands + ([] if residual is None else [residual]), conv_meaning)


def conv_meaning(kernel: Int8Conv, x: Any, packed: Any, *rest: Any) -> Any:
    """The kernel of convolutions in plain JAX."""
    start, columns, numbers, border, *added = rest
    matrix = unpack_words(packed, kernel.outputs)
    byte = lax.bitcast_convert_type((border[0] & 255).astype(np.uint8), np.int8) if x.dtype == np.int8 else (border[0] & 255) - 128
    sums = slid(kernel.image, signed_bytes(x), matrix, byte.astype(np.int8), np.int32)
    return narrow_finished(kernel, integer_sums(start, sums, matrix), start, columns, numbers, *added)
