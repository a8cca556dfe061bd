"""Convolutions of traced arrays through the kernels: packing weights, choosing the tiling, the meaning in plain JAX."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.choice import conv_kernel, depthwise_kernel
from kopt.targets.kernels.conv import Conv, Depthwise, Image
from kopt.targets.kernels.kernel import Epilogue, lanes
from kopt.targets.kernels.packing import packed_filters, unpack
from kopt.targets.kernels.product_call import finished
from kopt.targets.kernels.winograd import POSITIONS, TILE, Winograd

_G_INVERSE = ((1, 0, 0, 0), (0, 1, -1, 0), (0, 0, 0, 1))  # times G is the identity


def convolve(calls: KernelCalls, x: Any, weight: Any, image: Image, rest: list[Any], epilogue: Epilogue) -> Any | None:
    """epilogue(conv(x, weight)), or None where the kernel does not take these sizes.

    Args:
        calls: where the program's kernels are kept.
        x: f32 (N, H, W, C).
        weight: f32 (M, C, kh, kw).
        image: sizes.
        rest: bias f32 (M,) and residual f32 (N, OH, OW, M), as the epilogue says.
        epilogue: what follows.
    """
    usual = conv_kernel(image, weight.shape[0], epilogue, lanes(calls.target), calls.target.num_cores)
    if usual is None:
        return None
    kernel = calls.scheduled(usual)
    meaning = winograd_meaning if isinstance(kernel, Winograd) else conv_meaning
    return calls.call(kernel, [x, packed_filters(kernel, weight), *rest], meaning)


def convolve_depthwise(calls: KernelCalls, x: Any, weight: Any, image: Image, rest: list[Any], epilogue: Epilogue) -> Any | None:
    """epilogue(conv(x, weight)) of every channel by itself, or None where the kernel does not take these sizes.

    Args:
        calls: where the program's kernels are kept.
        x: f32 (N, H, W, C).
        weight: f32 (C, 1, kh, kw).
        image: sizes.
        rest: bias f32 (C,) and residual f32 (N, OH, OW, C), as the epilogue says.
        epilogue: what follows.
    """
    usual = depthwise_kernel(image, epilogue, lanes(calls.target), calls.target.num_cores)
    if usual is None:
        return None
    kernel = calls.scheduled(usual)
    return calls.call(kernel, [x, packed_filters(kernel, weight), *rest], depthwise_meaning)


def winograd_meaning(kernel: Winograd, x: Any, packed: Any, *rest: Any) -> Any:
    """The Winograd kernel in plain JAX: the filters are recovered from their transform."""
    channels, edge = kernel.image.channels, TILE + 2
    positions = jnp.stack([unpack(packed[k], kernel.outputs) for k in range(POSITIONS)]).reshape(edge, edge, channels, kernel.outputs)
    back = jnp.asarray(_G_INVERSE, packed.dtype)
    filters = jnp.einsum("ip,pqcm,jq->ijcm", back, positions, back, precision="highest")
    return finished(kernel.epilogue, slide(kernel.image, x, filters, 1), *rest)


def conv_meaning(kernel: Conv, x: Any, packed: Any, *rest: Any) -> Any:
    """The convolution kernel in plain JAX."""
    filters = unpack(packed, kernel.outputs).reshape(*kernel.image.kernel, kernel.image.channels, kernel.outputs)
    return finished(kernel.epilogue, slide(kernel.image, x, filters, 1), *rest)


def depthwise_meaning(kernel: Depthwise, x: Any, rows: Any, *rest: Any) -> Any:
    """The depthwise kernel in plain JAX."""
    filters = rows.reshape(*kernel.image.kernel, 1, kernel.image.channels)
    return finished(kernel.epilogue, slide(kernel.image, x, filters, kernel.image.channels), *rest)


def slide(image: Image, x: Any, filters: Any, groups: int) -> Any:
    """XLA's convolution.  x: f32 (N, H, W, C), filters: (kh, kw, C / groups, M): (N, OH, OW, M)."""
    needed = image.needed_rows(image.out_height), image.needed_width
    sizes = image.height, image.width
    pads = [(before, need - size - before) for before, need, size in zip(image.pads, needed, sizes, strict=True)]
    return lax.conv_general_dilated(
        jnp.asarray(x, np.float32),
        filters,
        image.strides,
        pads,
        rhs_dilation=image.dilations,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
