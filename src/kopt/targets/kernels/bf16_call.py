"""Products and convolutions of traced bf16 arrays through the kernels, and their meaning in plain JAX."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.conv_tiling import conv_tiling
from kopt.targets.kernels.kernel import Epilogue, lanes
from kopt.targets.kernels.narrow import Bf16Product, words
from kopt.targets.kernels.narrow_call import can_narrow, formats_of, narrow_finished, pack_words, padded, slid, unpack_words
from kopt.targets.kernels.narrow_conv import Bf16Conv
from kopt.targets.kernels.product_call import MIN_MULTIPLIES
from kopt.targets.kernels.tiling import product_tiling

PAIR = 2
"""Numbers in a word."""


def multiply(calls: KernelCalls, x: Any, w: Any, rest: tuple[Any | None, Any | None], result: str, epilogue: Epilogue) -> Any | None:
    """epilogue(x @ w), or None where the kernel does not take these sizes.

    Args:
        calls: where the program's kernels are kept.
        x: bf16 (..., K).
        w: bf16 (K, N).
        rest: bias f32 (N,), and residual f32 or bf16 of the result's shape, or None.
        result: "f32" or "bf16".
        epilogue: what follows.
    """
    rows, (depth, columns) = prod(x.shape[:-1]), w.shape
    bias, residual = rest
    formats = formats_of(x, residual, result)
    if not can_narrow(formats.x, columns, calls.target) or min(rows, depth) < 1 or rows * depth * columns < MIN_MULTIPLIES:
        return None
    flat, w = padded(x.reshape(rows, depth), 1, PAIR), padded(w, 0, PAIR)
    tiling = product_tiling(rows, words(depth, formats), columns, lanes(calls.target), calls.target.num_cores)
    kernel = Bf16Product(rows, w.shape[0], columns, tiling, formats, epilogue)
    operands = [flat, pack_words(w, tiling.panel, PAIR)]
    operands += [] if bias is None else [bias]
    operands += [] if residual is None else [residual.reshape(rows, columns)]
    return calls.call(kernel, operands, product_meaning).reshape(*x.shape[:-1], columns)


def product_meaning(kernel: Bf16Product, x: Any, packed: Any, *rest: Any) -> Any:
    """The kernel of products in plain JAX."""
    return narrow_finished(kernel, jnp.matmul(x, unpack_words(packed, kernel.n), preferred_element_type=np.float32), *rest)


def convolve(
    calls: KernelCalls, x: Any, weight: Any, image: Image, rest: tuple[Any | None, Any | None], result: str, epilogue: Epilogue
) -> Any | None:
    """epilogue(conv(x, weight)) of all channels with all, or None where the kernel does not take these sizes.

    Args:
        calls: where the program's kernels are kept.
        x: bf16 (N, H, W, C).
        weight: bf16 (M, C, kh, kw).
        image: sizes.
        rest: bias f32 (M,), and residual f32 or bf16 (N, OH, OW, M), or None.
        result: "f32" or "bf16".
        epilogue: what follows.
    """
    outputs, formats = weight.shape[0], formats_of(x, rest[1], result)
    if not can_narrow(formats.x, outputs, calls.target):
        return None
    x, weight = padded(x, 3, PAIR), padded(weight, 1, PAIR)
    image = replace(image, channels=x.shape[3])
    found = conv_tiling(replace(image, channels=x.shape[3] // PAIR), outputs, lanes(calls.target), calls.target.num_cores)
    if found is None:
        return None
    kernel = Bf16Conv(image, outputs, found[1], formats, epilogue)
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, outputs)
    operands = [x, pack_words(matrix, found[1].panel, PAIR), *(array for array in rest if array is not None)]
    return calls.call(kernel, operands, conv_meaning)


def conv_meaning(kernel: Bf16Conv, x: Any, packed: Any, *rest: Any) -> Any:
    """The kernel of convolutions in plain JAX."""
    sums = slid(kernel.image, x, unpack_words(packed, kernel.outputs), jnp.zeros((), x.dtype), np.float32)
    return narrow_finished(kernel, sums, *rest)
