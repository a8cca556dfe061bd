import random
from itertools import product

import numpy as np
import pytest

from kopt.targets.kernels.conv import Conv, ConvTiling, Depthwise, Image
from kopt.targets.kernels.conv_call import conv_meaning, depthwise_meaning
from kopt.targets.kernels.conv_tiling import SCRATCH_BYTES, conv_tiling, depthwise_tiling, scratch_bytes
from kopt.targets.kernels.kernel import Epilogue, lanes
from kopt.targets.kernels.packing import pack
from support.kernels import EPILOGUES, TARGETS, Compiled, finished, others


def image_of(batch, size, channels, kernel, strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0)):
    """The image of an ONNX convolution, pads as (above, left, below, right)."""
    top, left, bottom, right = pads
    totals = (top + bottom, left + right)
    out = [(s + p - (k - 1) * d - 1) // t + 1 for s, p, k, d, t in zip(size, totals, kernel, dilations, strides, strict=True)]
    return Image(batch, *size, channels, *out, kernel, strides, dilations, (top, left))


def direct(image, outputs, lanes, cores=2):
    """The tiling taken without a search."""
    found = conv_tiling(image, outputs, lanes, cores)
    return found and found[1]


def dense(lanes):
    """(image, outputs)."""
    full = [
        (image_of(1, (9, 9), 3, (3, 3), pads=(1, 1, 1, 1)), 16),
        (image_of(3, (7, 8), 16, (3, 3), (2, 2), pads=(1, 1, 1, 1)), 17),
        (image_of(1, (13, 12), 17, (5, 5), (1, 2), pads=(2, 2, 2, 2)), 48),
        (image_of(3, (11, 5), 24, (1, 1), (2, 2)), 17),
        (image_of(1, (6, 7), 40, (1, 1), pads=(1, 0, 0, 2)), 16),
        (image_of(1, (15, 15), 3, (7, 7), (2, 2), pads=(3, 3, 3, 3)), 48),
        (image_of(3, (8, 8), 16, (2, 2), (2, 2)), 16),
        (image_of(1, (9, 10), 17, (2, 2), (3, 3), pads=(0, 1, 1, 0)), 48),
        (image_of(1, (12, 11), 16, (3, 3), dilations=(2, 2), pads=(2, 2, 2, 2)), 16),
        (image_of(3, (12, 11), 3, (3, 2), (2, 1), (1, 2), (0, 3, 1, 1)), 17),
        (image_of(1, (10, 10), 16, (3, 3)), 48),
        (image_of(1, (7, 1), 16, (3, 1), pads=(1, 0, 1, 0)), 16),
        (image_of(1, (1, 3), 24, (1, 3), pads=(0, 1, 0, 1)), 17),
        (image_of(1, (3, 3), 40, (3, 3), (1, 1), (2, 2), (2, 2, 2, 2)), 48),
        (image_of(1, (14, 10), 16, (5, 5), (3, 3), (2, 2), (4, 0, 1, 3)), 16),
        (image_of(1, (10, 10), 8, (1, 1), (3, 3)), 48),
        (image_of(1, (5, 5), 16, (3, 3), pads=(0, 0, 2, 2)), 33),  # zeros on one side alone
        (image_of(1, (2, 2), 16, (7, 7), pads=(3, 3, 3, 3)), 16),  # a window larger than the image
        (image_of(2, (1, 1), 16, (1, 1), (9, 9), pads=(3, 3, 3, 3)), 16),  # the only output reads a border alone
        (image_of(1, (2, 1), 48, (1, 1), (1, 99), pads=(0, 49, 0, 49)), 16),  # nor any column of an image row
        (image_of(1, (9, 9), 16, (3, 3), (2, 2), pads=(0, 0, 0, 0)), 16),
        (image_of(1, (10, 10), 16, (3, 3), (2, 2), pads=(0, 0, 0, 0)), 16),  # the last row and column are left over
    ]
    return [(image, outputs) for image, outputs in full if outputs >= lanes]


def by_channel(lanes):
    images = [
        image_of(1, (9, 9), 16, (3, 3), pads=(1, 1, 1, 1)),
        image_of(3, (8, 7), 17, (3, 3), (2, 2), pads=(1, 1, 1, 1)),
        image_of(1, (10, 11), 24, (5, 5), pads=(2, 2, 2, 2)),
        image_of(1, (9, 9), 40, (7, 7), pads=(3, 3, 3, 3)),
        image_of(3, (6, 6), 40, (2, 2), (3, 3), pads=(0, 1, 1, 0)),
        image_of(1, (5, 6), 16, (1, 1)),
        image_of(1, (12, 11), 17, (3, 3), (1, 2), (2, 1), (2, 0, 1, 3)),
        image_of(1, (7, 1), 16, (3, 1), pads=(1, 0, 1, 0)),
        image_of(1, (1, 2), 48, (3, 3), pads=(1, 1, 1, 1)),
        image_of(1, (8, 8), 33, (3, 3)),
        image_of(1, (2, 2), 16, (7, 7), pads=(3, 3, 3, 3)),
        image_of(2, (1, 1), 16, (1, 1), (9, 9), pads=(3, 3, 3, 3)),
    ]
    return [image for image in images if image.channels >= lanes]


def tilings(image, outputs, default, lanes, rng):
    """The default, and others with tasks that reach beyond the last row or panel."""
    panels = [p * lanes for p in (1, 2, 3) if p * lanes <= outputs]
    pixels = [p for p in (1, 2, 3, 4, 6) if p <= image.out_width]
    rows = [r for r in (1, 2, 3, 5) if r <= image.out_height]
    return [default, *(ConvTiling(*map(rng.choice, (pixels, panels, (1, 3, 4), rows, (1, 2, 3, 5)))) for _ in range(2))]


def convolutions(lanes):
    rng, kernels = random.Random(lanes), []
    for image, outputs in dense(lanes):
        for tiling in tilings(image, outputs, direct(image, outputs, lanes), lanes, rng):
            kernels.append(Conv(image, outputs, tiling, EPILOGUES[len(kernels) % len(EPILOGUES)]))
    return kernels


def depthwise(lanes):
    rng, kernels = random.Random(lanes), []
    for image in by_channel(lanes):
        for tiling in tilings(image, image.channels, depthwise_tiling(image, lanes, 2), lanes, rng):
            kernels.append(Depthwise(image, tiling, EPILOGUES[(len(kernels) + 5) % len(EPILOGUES)]))
    return kernels


def every_epilogue(lanes):
    image = image_of(2, (5, 6), 2 * lanes + 1, (3, 3), (2, 1), pads=(1, 1, 1, 0))
    of_all = [Conv(image, lanes + 3, direct(image, lanes + 3, lanes), epilogue) for epilogue in EPILOGUES]
    return of_all + [Depthwise(image, depthwise_tiling(image, lanes, 2), epilogue) for epilogue in EPILOGUES]


@pytest.fixture(scope="module", params=TARGETS)
def built(request):
    width = lanes(request.param)
    return width, Compiled([*convolutions(width), *depthwise(width), *every_epilogue(width)], request.param)


def convolved(image, x, weight):
    """In f64, one tap after another.  x: (N, H, W, C), weight: (kh, kw, C, M), or (kh, kw, C) for every channel by itself."""
    (top, left), (kh, kw) = image.pads, image.kernel
    rows, columns = image.needed_rows(image.out_height), image.needed_width
    padded = np.zeros((image.batch, max(rows, top + image.height), max(columns, left + image.width), image.channels))
    padded[:, top : top + image.height, left : left + image.width] = x
    total = 0.0
    for i, j in product(range(kh), range(kw)):
        y, z = i * image.dilations[0], j * image.dilations[1]
        taken = padded[:, y : y + (image.out_height - 1) * image.strides[0] + 1 : image.strides[0]]
        taken = taken[:, :, z : z + (image.out_width - 1) * image.strides[1] + 1 : image.strides[1]]
        total = total + (taken @ weight[i, j].astype(np.float64) if weight.ndim == 4 else taken * weight[i, j])
    return total


def operands(kernel, rng):
    """(x, the weight as it is, the operands as the kernel takes them)."""
    image = kernel.image
    x = rng.standard_normal(kernel.operands[0]).astype(np.float32)
    last = (kernel.outputs,) if isinstance(kernel, Conv) else ()
    weight = rng.standard_normal((*image.kernel, image.channels, *last)).astype(np.float32)
    rest = others(kernel, rng)
    if isinstance(kernel, Conv):
        return x, weight, [x, np.asarray(pack(weight.reshape(kernel.depth, kernel.outputs), kernel.tiling.panel)), *rest]
    return x, weight, [x, weight.reshape(-1, image.channels), *rest]


def check(kernel, run, rng):
    x, weight, given = operands(kernel, rng)
    expected = finished(kernel.epilogue, convolved(kernel.image, x, weight), *given[2:])
    assert expected.shape == kernel.result
    terms = kernel.image.kernel[0] * kernel.image.kernel[1] * (kernel.image.channels if isinstance(kernel, Conv) else 1)
    np.testing.assert_allclose(run(kernel, given), expected, atol=2e-6 + 2e-7 * terms, rtol=1e-6, err_msg=str(kernel))


def test_convolutions(built, rng):
    for kernel in convolutions(built[0]):
        check(kernel, built[1], rng)


def test_depthwise(built, rng):
    for kernel in depthwise(built[0]):
        check(kernel, built[1], rng)


def test_every_epilogue(built, rng):
    for kernel in every_epilogue(built[0]):
        check(kernel, built[1], rng)


def test_the_order_of_tasks_changes_nothing(built, rng):
    for kernel in (convolutions(built[0])[4], depthwise(built[0])[4]):
        _, _, given = operands(kernel, rng)
        tasks = list(range(kernel.num_tasks))
        np.testing.assert_array_equal(built[1](kernel, given, tasks), built[1](kernel, given, tasks[::-1]))


def test_nan_spoils_what_reads_it_and_nothing_else(built, rng):
    relu = Epilogue(activation="Relu")
    for kernel in every_epilogue(built[0]):
        if kernel.epilogue != relu:
            continue
        x, weight, given = operands(kernel, rng)
        x[1, 2, 3, 1] = np.nan
        expected = np.isnan(convolved(kernel.image, x, weight))
        assert expected.any()
        assert not expected.all()
        np.testing.assert_array_equal(np.isnan(built[1](kernel, given)), expected)


def plainly(kernel, given):
    return np.asarray((conv_meaning if isinstance(kernel, Conv) else depthwise_meaning)(kernel, *given))


def test_the_plain_meaning_agrees(built, rng):
    picked = [*every_epilogue(built[0])[5::6], *convolutions(built[0])[::9], *depthwise(built[0])[::9]]
    for kernel in picked:
        _, _, given = operands(kernel, rng)
        np.testing.assert_allclose(built[1](kernel, given), plainly(kernel, given), atol=1e-4, rtol=1e-5, err_msg=str(kernel))


@pytest.mark.parametrize("lanes", [8, 16])
def test_default_tilings_fit(lanes):
    for image, outputs in dense(lanes):
        for cores in (1, 2, 8, 64):
            for tiling, channels in ((direct(image, outputs, lanes, cores), outputs), (depthwise_tiling(image, 4, cores), None)):
                if tiling is None:
                    continue
                assert tiling.pixels <= image.out_width
                assert tiling.rows <= image.out_height
                assert tiling.panel <= (channels or image.channels)
                assert scratch_bytes(image, tiling.rows) <= SCRATCH_BYTES


def test_rows_too_wide_to_copy_are_refused():
    image = image_of(1, (64, 4096), 64, (3, 3), pads=(1, 1, 1, 1))
    assert conv_tiling(image, 64, 16, 2) is None
    assert depthwise_tiling(image, 16, 2) is None
