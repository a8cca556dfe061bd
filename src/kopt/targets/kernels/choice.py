"""Which kernel does a piece of work that no search has scheduled, if any; the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from kopt.targets.kernels.attention import Attention, attention_tiling
from kopt.targets.kernels.conv import Conv, Depthwise, Image
from kopt.targets.kernels.conv_tiling import conv_tiling, depthwise_tiling, winograd_tiling
from kopt.targets.kernels.inverted import InvertedResidual
from kopt.targets.kernels.inverted_tiling import inverted_tiling
from kopt.targets.kernels.kernel import Epilogue
from kopt.targets.kernels.winograd import Winograd

WINOGRAD_GAIN = 0.9
"""Winograd is taken where its estimate is below this share of the direct form's: it rounds more, and needs more weights."""

MAX_TURNED_BYTES = 512 * 1024
"""Largest copy of a head's keys that a task may hold: it lies on the stack, and in the second-level cache."""

# Models repeat layers, and an estimate looks at hundreds of tilings.
_direct, _depthwise, _winograd = lru_cache(conv_tiling), lru_cache(depthwise_tiling), lru_cache(winograd_tiling)
_inverted = lru_cache(inverted_tiling)


def conv_kernel(image: Image, outputs: int, epilogue: Epilogue, lanes: int, cores: int) -> Conv | Winograd | None:
    """A convolution of all channels with all; None where no kernel takes these sizes."""
    direct = _direct(image, outputs, lanes, cores) if outputs >= lanes else None
    fast = _winograd(image, outputs, lanes, cores)
    if fast is not None and (direct is None or fast[0] < WINOGRAD_GAIN * direct[0]):
        return Winograd(image, outputs, fast[1], epilogue)
    return None if direct is None else Conv(image, outputs, direct[1], epilogue)


def depthwise_kernel(image: Image, epilogue: Epilogue, lanes: int, cores: int) -> Depthwise | None:
    """A convolution of every channel by itself; None where the kernel does not take these sizes."""
    tiling = _depthwise(image, lanes, cores) if image.channels >= lanes else None
    return None if tiling is None else Depthwise(image, tiling, epilogue)


def inverted_kernel(
    image: Image, inputs: int, outputs: int, expands: bool, inner: Epilogue, outer: Epilogue, lanes: int, cores: int
) -> InvertedResidual | None:
    """An inverted residual block; None where it cannot run as one kernel, or its layers one by one are faster.

    Args:
        image: sizes of the depthwise convolution.
        inputs: channels of the block's input.
        outputs: channels of its result.
        expands: whether there is a first product.
        inner: activation after the first two layers.
        outer: activation after the last one, and whether the input is added before.
        lanes: elements of a vector register.
        cores: threads that share the tasks.
    """
    tiling = _inverted(image, inputs, outputs, expands, lanes, cores)
    if tiling is None:
        return None
    inner, outer = replace(inner, bias=True, residual=False), replace(outer, bias=True)
    return InvertedResidual(image, inputs, outputs, expands, tiling, inner, outer)


def attention_kernel(
    q: Sequence[int], v: Sequence[int], mask: Sequence[int] | None, scale: float, lanes: int, cores: int
) -> Attention | None:
    """Attention over heads; None where the kernel does not take these sizes.

    Args:
        q: shape (B, H, Tq, D) of the queries.
        v: shape (B, KH, Tk, Dv) of the values.
        mask: shape of what is added to the scores, broadcast to (B, H, Tq, Tk), or None.
        scale: of the scores.
        lanes: elements of a vector register.
        cores: threads that share the tasks.
    """
    (batch, heads, queries, size), (_, kv_heads, keys, value_size) = q, v
    padded = -(-keys // lanes) * lanes
    if min(batch, heads, queries, keys, size) < 1 or value_size < lanes or size * padded * 4 > MAX_TURNED_BYTES or heads % kv_heads:
        return None
    shape = () if mask is None else (1,) * (4 - len(mask)) + tuple(mask)
    if shape and (shape[3] != keys or any(have not in (1, want) for have, want in zip(shape, (batch, heads, queries), strict=False))):
        return None
    tiling = attention_tiling(queries, keys, value_size, batch * heads, lanes, cores)
    return Attention(batch, queries, keys, heads, kv_heads, size, value_size, float(scale), shape[:3], lanes, tiling)
