"""Inverted residual blocks of traced arrays through their kernel: packing weights and the meaning in plain JAX."""

from __future__ import annotations

from typing import Any

import numpy as np

from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.choice import inverted_kernel
from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.conv_call import slide
from kopt.targets.kernels.inverted import InvertedResidual
from kopt.targets.kernels.kernel import Epilogue, lanes
from kopt.targets.kernels.packing import pack, unpack
from kopt.targets.kernels.product_call import finished


def invert(calls: KernelCalls, x: Any, layers: tuple[Any, ...], image: Image, inner: Epilogue, outer: Epilogue) -> Any | None:
    """The block in one kernel; None where it cannot run as one, or does not pay.

    Args:
        calls: where the program's kernels are kept.
        x: f32 (N, H, W, C).
        layers: matrix (C, E) and bias or None, filters (E, 1, kh, kw) and bias, matrix (E, M) and bias; the first two may be None.
        image: sizes of the depthwise convolution.
        inner: activation after the first two layers.
        outer: activation after the last one, and whether x is added before.
    """
    first, first_bias, filters, slide_bias, last, last_bias = layers
    outputs, sizes = last.shape[1], (lanes(calls.target), calls.target.num_cores)
    usual = inverted_kernel(image, x.shape[-1], outputs, first is not None, inner, outer, *sizes)
    if usual is None:
        return None
    kernel = calls.scheduled(usual)
    tiling = kernel.tiling

    def bias(given: Any | None, channels: int) -> Any:
        return np.zeros(channels, np.float32) if given is None else given

    operands = [x, *(() if first is None else (pack(first, tiling.expand[1]), bias(first_bias, image.channels)))]
    operands += [filters.reshape(image.channels, -1).T, bias(slide_bias, image.channels)]
    operands += [pack(last, tiling.project[1]), bias(last_bias, outputs)]
    return calls.call(kernel, operands, meaning)


def meaning(kernel: InvertedResidual, x: Any, *weights: Any) -> Any:
    """The kernel in plain JAX."""
    wide = x
    if kernel.expands:
        wide = finished(kernel.inner, x @ unpack(weights[0], kernel.image.channels), weights[1])
    filters, slide_bias, last, last_bias = weights[-4:]
    filters = filters.reshape(*kernel.image.kernel, 1, kernel.image.channels)
    slid = finished(kernel.inner, slide(kernel.image, wide, filters, kernel.image.channels), slide_bias)
    return finished(kernel.outer, slid @ unpack(last, kernel.outputs), last_bias, *([x] if kernel.outer.residual else []))
