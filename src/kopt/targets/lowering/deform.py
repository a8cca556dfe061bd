"""Convolution that samples where the model says."""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.targets.lowering.conv import Window
from kopt.targets.lowering.image import sampled
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@lowers("DeformConv")
def deform_conv(ctx: LoweringContext, x: Array, weight: Array, offset: Array, bias: Any = None, mask: Any = None) -> Array:
    """Each kernel element reads, linearly, at its place plus an offset; zero outside.  Source: ONNX DeformConv-22.

    x: (N, C, *spatial), weight: (M, C / group, *kernel), offset: (N, offset groups * kernel * axes, *out).
    """
    spatial, kernel = x.shape[2:], weight.shape[2:]
    window, rank = Window.of(ctx, spatial, kernel), len(spatial)
    batch, channels, out = x.shape[0], x.shape[1], offset.shape[2:]
    sets, taps, group = ctx.attr("offset_group"), prod(kernel), ctx.attr("group")
    kind = np.float64 if x.dtype == np.float64 else np.float32
    moved = jnp.asarray(offset).astype(kind).reshape(batch * sets, taps, rank, *out)
    places = []
    for k in range(rank):
        shape = [1] * (1 + rank)
        shape[1 + k] = -1
        start = (np.arange(out[k]) * window.strides[k] - window.pads[k][0]).reshape(shape)
        tap = (np.indices(kernel)[k].reshape(-1) * window.dilations[k]).reshape(-1, *[1] * rank)
        places.append((moved[:, :, k] + (start + tap).astype(kind)).reshape(batch * sets, -1))
    image = jnp.asarray(x).astype(kind).reshape(batch * sets, channels // sets, *spatial)
    columns = sampled(image, places, "linear", "zeros", corners=True).reshape(batch, sets, channels // sets, taps, *out)
    if mask is not None:
        columns = columns * jnp.asarray(mask).astype(kind).reshape(batch, sets, 1, taps, *out)
    columns = columns.reshape(batch, group, channels // group, taps, prod(out))
    kernels = jnp.asarray(weight).astype(kind).reshape(group, weight.shape[0] // group, channels // group, taps)
    y = jnp.einsum("ngctp,gmct->ngmp", columns, kernels).reshape(batch, weight.shape[0], *out)
    if bias is not None:
        y = y + jnp.asarray(bias).astype(kind).reshape(-1, *[1] * rank)
    return y.astype(x.dtype)
