"""Blocks of three layers in one kernel against the layers in f64, for odd sizes, strides, borders and every division into tasks."""

from dataclasses import replace

import numpy as np
import pytest

from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.conv_tiling import SCRATCH_BYTES
from kopt.targets.kernels.inverted import InvertedResidual, InvertedTiling
from kopt.targets.kernels.inverted_call import invert, meaning
from kopt.targets.kernels.inverted_tiling import inverted_tiling
from kopt.targets.kernels.kernel import Epilogue, lanes
from support.kernels import TARGETS, Compiled, Recorded, finished


def image_of(batch, size, channels, kernel, strides=(1, 1), pads=(0, 0, 0, 0)):
    """The image of an ONNX convolution, pads as (above, left, below, right)."""
    totals = (pads[0] + pads[2], pads[1] + pads[3])
    out = [(s + p - k) // t + 1 for s, p, k, t in zip(size, totals, kernel, strides, strict=True)]
    return Image(batch, *size, channels, *out, kernel, strides, (1, 1), pads[:2])


SIX = Epilogue(bias=True, activation="Clip", low=0.0, high=6.0)
PAD = (1, 1, 1, 1)
BLOCKS = {
    "plain": (image_of(1, (9, 8), 40, (3, 3), pads=PAD), 24, 24, True, True),
    "strided": (image_of(3, (9, 7), 33, (3, 3), (2, 2), pads=PAD), 5, 17, True, False),
    "narrow": (image_of(2, (8, 9), 32, (3, 3), pads=PAD), 32, 16, False, False),
    "narrow_residual": (image_of(2, (5, 6), 17, (3, 3), pads=PAD), 17, 17, False, True),
    "wide_window": (image_of(1, (10, 11), 48, (5, 5), pads=(2, 2, 2, 2)), 3, 31, True, False),
    "uneven": (image_of(2, (11, 6), 19, (3, 5), (1, 2), pads=(0, 2, 1, 0)), 7, 16, True, False),
    "no_border": (image_of(1, (9, 9), 16, (3, 3)), 16, 16, True, False),
    "left_over": (image_of(1, (10, 10), 16, (3, 3), (2, 2)), 2, 16, True, False),
    "one_pixel": (image_of(2, (1, 1), 16, (3, 3), pads=PAD), 16, 16, True, True),
    "tall": (image_of(1, (13, 2), 16, (3, 3), (3, 3), pads=PAD), 8, 40, True, False),
}
NO_ACTIVATION = Epilogue(bias=True)


def tilings(image, inputs, outputs, expands, width):
    """The default, and small tiles in blocks that overlap."""
    found = [inverted_tiling(image, inputs, outputs, expands, width, 1)]
    small = InvertedTiling((1, width), (1, width), (1, width), 3, 1, 1)
    blocks = [(1, 3), (2, 4)]
    return [t for t in found if t] + [replace(small, rows=r, block=b) for r, b in blocks if b <= image.out_height]


def kernels_of(width):
    kernels = []
    for number, (image, inputs, outputs, expands, residual) in enumerate(BLOCKS.values()):
        if min(image.channels, outputs) >= width:
            inner = (SIX, Epilogue(bias=True, activation="Relu"), NO_ACTIVATION)[number % 3]
            outer = Epilogue(True, residual, *(("Relu",) if number % 4 == 3 else ()))
            chosen = tilings(image, inputs, outputs, expands, width)
            kernels.extend(InvertedResidual(image, inputs, outputs, expands, tiling, inner, outer) for tiling in chosen)
    return kernels


def slid(image, x, filters):
    """The depthwise convolution in f64.  x: (N, H, W, E), filters: (kh * kw, E)."""
    (kh, kw), (sh, sw), (top, left) = image.kernel, image.strides, image.pads
    rows, columns = image.needed_rows(image.out_height), image.needed_width
    padded = np.zeros((x.shape[0], max(rows, top + image.height), max(columns, left + image.width), x.shape[3]))
    padded[:, top : top + image.height, left : left + image.width] = x
    taps = (
        padded[:, i : i + (image.out_height - 1) * sh + 1 : sh, j : j + (image.out_width - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    )
    return sum(tap * weight for tap, weight in zip(taps, filters, strict=True))


def unpacked(packed, columns):
    panels, _, panel = packed.shape
    starts = [min(p * panel, columns - panel) for p in range(panels)]
    w = np.zeros((packed.shape[1], columns))
    for start, part in zip(starts, packed, strict=True):
        w[:, start : start + panel] = part
    return w


def operands_of(kernel, rng):
    """Random numbers; where panels overlap they hold the same weights."""
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in kernel.operands]
    for index, columns in ((1, kernel.image.channels), (len(arrays) - 2, kernel.outputs)):
        if arrays[index].ndim == 3:
            panels, _, panel = arrays[index].shape
            w = rng.standard_normal((arrays[index].shape[1], columns)).astype(np.float32) / 4
            arrays[index] = np.stack([w[:, (s := min(p * panel, columns - panel)) : s + panel] for p in range(panels)])
    return arrays


def expected(kernel, x, *weights):
    wide = x.astype(np.float64)
    if kernel.expands:
        wide = finished(kernel.inner, wide @ unpacked(weights[0], kernel.image.channels), weights[1])
    filters, slide_bias, last, last_bias = weights[-4:]
    middle = finished(kernel.inner, slid(kernel.image, wide, filters.astype(np.float64)), slide_bias)
    return finished(kernel.outer, middle @ unpacked(last, kernel.outputs), last_bias, *([x] if kernel.outer.residual else []))


@pytest.fixture(scope="module", params=TARGETS)
def built(request):
    width = lanes(request.param)
    return kernels_of(width), Compiled(kernels_of(width), request.param)


def test_the_kernel_computes_the_three_layers(built):
    kernels, compiled = built
    rng = np.random.default_rng(0)
    for kernel in kernels:
        operands = operands_of(kernel, rng)
        wanted = expected(kernel, *operands)
        np.testing.assert_allclose(compiled(kernel, operands), wanted, rtol=2e-5, atol=2e-5 * np.abs(wanted).max(), err_msg=str(kernel))


def test_meaning_is_the_same():
    rng = np.random.default_rng(1)
    for kernel in kernels_of(8)[::3]:
        operands = operands_of(kernel, rng)
        wanted = expected(kernel, *operands)
        np.testing.assert_allclose(meaning(kernel, *operands), wanted, rtol=2e-5, atol=2e-5 * np.abs(wanted).max())


def test_nan_stays_where_it_is_read(built):
    kernels, compiled = built
    kernel = next(k for k in kernels if k.image.kernel == (3, 3) and k.image.strides == (1, 1) and k.image.height > 6)
    operands = operands_of(kernel, np.random.default_rng(2))
    operands[0][0, 0, 0, 0] = np.nan
    found = np.isnan(compiled(kernel, operands)).all(-1)
    assert found[0, :2, :2].all()
    assert found.sum() == 4


@pytest.mark.parametrize("cores", [1, 2, 5, 64])
def test_the_default_fits(cores):
    for image, inputs, outputs, expands, _ in BLOCKS.values():
        tiling = inverted_tiling(image, inputs, outputs, expands, 16, cores)
        if tiling is not None:
            kernel = InvertedResidual(image, inputs, outputs, expands, tiling)
            assert tiling.block % tiling.rows == 0
            assert tiling.block <= image.out_height
            assert kernel.ring >= image.needed_rows(tiling.rows)
            assert tiling.project[0] <= tiling.rows * image.out_width
            assert 4 * kernel.ring * image.needed_width * image.channels <= SCRATCH_BYTES


def test_small_images_are_not_divided():
    """Half of a 7 x 7 image would compute most of the wide image again."""
    image = image_of(1, (7, 7), 960, (3, 3), pads=PAD)
    assert inverted_tiling(image, 160, 160, True, 16, 2) is None
    assert inverted_tiling(replace(image, batch=8), 160, 160, True, 16, 2) is not None


def test_missing_biases_are_zero():
    image = image_of(1, (8, 8), 32, (3, 3), pads=PAD)
    calls, rng = Recorded(), np.random.default_rng(3)
    x, first, filters, last = (rng.standard_normal(s).astype(np.float32) for s in ((1, 8, 8, 16), (16, 32), (32, 1, 3, 3), (32, 16)))
    assert invert(calls, x, (first, None, filters, None, last, None), image, Epilogue(), Epilogue()) is not None
    ((kernel, operands, means),) = calls.made
    assert [array.shape for array in operands] == list(kernel.operands)
    wide = x.astype(np.float64) @ first
    np.testing.assert_allclose(means(kernel, *operands), slid(image, wide, filters.reshape(32, 9).T) @ last, rtol=1e-4, atol=1e-3)
