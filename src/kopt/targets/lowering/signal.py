"""Fourier transforms, windows, and the mel filter bank."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.ir.types import DType
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def _complex(x: Array) -> Array:
    """X: (..., 1 or 2) as a real or a complex array, in f64: in f32 rounding shows where terms cancel to zero."""
    x = jnp.asarray(x).astype(np.float64)
    return x[..., 0] if x.shape[-1] == 1 else x[..., 0] + 1j * x[..., 1]


def _pairs(x: Array, dtype: Any) -> Array:
    return jnp.stack([x.real, x.imag], -1).astype(dtype)


@lowers("DFT", static=(1, 2))
def dft(ctx: LoweringContext, x: Array, length: Any = None, axis: Any = None) -> Array:
    """The transform along one axis.  x: (..., 1 or 2), last axis real and imaginary part. Source: ONNX DFT-20."""
    signal = _complex(x)
    along = ctx.axis(-2 if axis is None else int(np.asarray(axis).item()), x.ndim)
    inverse, onesided = bool(ctx.attr("inverse")), bool(ctx.attr("onesided"))
    if along == x.ndim - 1:
        raise ctx.unsupported("the axis of real and imaginary parts cannot be transformed")
    count = None if length is None else int(np.asarray(length).item())
    if inverse and onesided:
        return jnp.fft.irfft(signal, count, along)[..., None].astype(x.dtype)
    if inverse:
        return _pairs(jnp.fft.ifft(signal, count, along), x.dtype)
    if onesided and not jnp.iscomplexobj(signal):
        return _pairs(jnp.fft.rfft(signal, count, along), x.dtype)
    result = jnp.fft.fft(signal, count, along)
    if onesided:
        result = jnp.take(result, np.arange(result.shape[along] // 2 + 1), along)
    return _pairs(result, x.dtype)


@lowers("STFT", static=(1, 3))
def stft(ctx: LoweringContext, x: Array, step: np.ndarray, window: Any = None, length: Any = None) -> Array:
    """Transforms of overlapping frames.  x: (B, samples, 1 or 2): (B, frames, bins, 2). Source: ONNX STFT-17."""
    if window is None and length is None:
        raise ctx.unsupported("neither window nor frame_length is given")
    size = int(np.asarray(length).item()) if length is not None else window.shape[0]
    stride = int(np.asarray(step).item())
    signal = _complex(x)
    frames = (signal.shape[1] - size) // stride + 1
    cut = signal[:, np.arange(frames)[:, None] * stride + np.arange(size)]
    if window is not None:
        cut = cut * jnp.asarray(window).astype(cut.real.dtype)
    if ctx.attr("onesided") and not jnp.iscomplexobj(cut):
        return _pairs(jnp.fft.rfft(cut), x.dtype)
    result = jnp.fft.fft(cut)
    return _pairs(result[..., : size // 2 + 1] if ctx.attr("onesided") else result, x.dtype)


# Name -> weights of 1, cos(a), cos(2a). Source: ONNX HannWindow-17, HammingWindow-17, BlackmanWindow-17.
_WINDOWS = {"HannWindow": (0.5, -0.5, 0.0), "HammingWindow": (25 / 46, -21 / 46, 0.0), "BlackmanWindow": (0.42, -0.5, 0.08)}


@lowers("HannWindow", "HammingWindow", "BlackmanWindow", static=(0,))
def window(ctx: LoweringContext, size: np.ndarray) -> Array:
    """A sum of cosines over ``size`` samples; a periodic one leaves out the last sample of the symmetric one."""
    count = int(np.asarray(size).item())
    period = count if ctx.attr("periodic") else count - 1
    angle = 2 * np.pi * np.arange(count) / max(period, 1)
    constant, first, second = _WINDOWS[ctx.node.op]
    values = constant + first * np.cos(angle) + second * np.cos(2 * angle)
    return values.astype(DType.from_onnx(ctx.attr("output_datatype")).numpy)


@lowers("MelWeightMatrix", static=(-1,))
def mel_weight_matrix(ctx: LoweringContext, bins: Any, length: Any, rate: Any, lower: Any, upper: Any) -> Array:
    """Triangles on the mel scale: (length // 2 + 1, bins). Source: ONNX MelWeightMatrix-17."""
    count, spectrum = int(bins.item()), int(length.item()) // 2 + 1
    low, high = (2595 * np.log10(1 + float(edge.item()) / 700) for edge in (lower, upper))
    mels = low + np.arange(count + 2) * ((high - low) / (count + 2))
    edges = np.floor((int(length.item()) + 1) * (700 * (10 ** (mels / 2595) - 1)) / int(rate.item())).astype(np.int64)
    matrix = np.zeros((spectrum, count))
    for k in range(count):
        left, centre, right = edges[k : k + 3]
        if centre == left:
            matrix[centre, k] = 1
        else:
            matrix[left : centre + 1, k] = (np.arange(left, centre + 1) - left) / (centre - left)
        if right > centre:
            matrix[centre:right, k] = (right - np.arange(centre, right)) / (right - centre)
    return matrix.astype(DType.from_onnx(ctx.attr("output_datatype")).numpy)
