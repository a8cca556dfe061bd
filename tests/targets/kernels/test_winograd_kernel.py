import random

import numpy as np
import pytest

from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.conv_call import winograd_meaning
from kopt.targets.kernels.conv_tiling import SCRATCH_BYTES, winograd_tiling
from kopt.targets.kernels.kernel import lanes
from kopt.targets.kernels.packing import transformed
from kopt.targets.kernels.winograd import POSITIONS, Winograd, WinogradTiling
from support.kernels import EPILOGUES, TARGETS, Compiled, finished, others

# batch, height, width, pads (above, left, below, right), channels, outputs
SIZES = [
    *((1, 8, 8, (1, 1, 1, 1), 16, 16), (2, 7, 9, (1, 1, 1, 1), 17, 33), (3, 5, 4, (0, 0, 0, 0), 24, 48)),
    *((1, 13, 12, (0, 2, 1, 0), 40, 17), (2, 2, 3, (1, 1, 1, 1), 16, 48), (1, 1, 1, (1, 1, 1, 1), 16, 16)),
    *((1, 3, 3, (0, 0, 0, 0), 33, 16), (1, 9, 6, (3, 3, 3, 3), 16, 40), (2, 6, 5, (0, 1, 2, 0), 48, 16)),
]


def image_of(batch, height, width, pads, channels):
    top, left, bottom, right = pads
    return Image(batch, height, width, channels, height + top + bottom - 2, width + left + right - 2, (3, 3), pads=(top, left))


def kernels_of(lanes):
    """Every size with the default tiling and with others, some with tasks beyond the last panel; and every epilogue."""
    rng, kernels = random.Random(lanes), []
    for *shape, outputs in SIZES:
        image = image_of(*shape)
        count = image.batch * -(-image.out_height // 2) * -(-image.out_width // 2)
        chosen = winograd_tiling(image, outputs, lanes, 2)
        for turn in range(3):
            tiles = rng.choice([t for t in (1, 2, 4) if t <= count])
            panel = rng.choice([p * lanes for p in (1, 2, 3) if p * lanes <= outputs])
            block = rng.choice([b for b in (tiles, tiles + 1, 5, 9, count) if tiles <= b <= count])
            other = WinogradTiling(tiles, panel, rng.choice((1, 3, 4)), block, rng.choice((1, 2, 3, 5)))
            kernels.append(Winograd(image, outputs, chosen[1] if turn == 0 else other, EPILOGUES[len(kernels) % len(EPILOGUES)]))
    return kernels


@pytest.fixture(scope="module", params=TARGETS)
def built(request):
    kernels = kernels_of(lanes(request.param))
    return kernels, Compiled(kernels, request.param)


def operands(kernel, rng):
    x = rng.standard_normal(kernel.operands[0]).astype(np.float32)
    weight = (rng.standard_normal((kernel.outputs, kernel.image.channels, 3, 3)) / 3).astype(np.float32)
    return x, weight, [x, np.asarray(transformed(weight, kernel.tiling.panel)), *others(kernel, rng)]


def convolved(image, x, weight):
    """In f64, one tap after another."""
    top, left = image.pads
    padded = np.zeros(
        (image.batch, max(image.out_height + 2, top + image.height), max(image.out_width + 2, left + image.width), image.channels)
    )
    padded[:, top : top + image.height, left : left + image.width] = x
    taps = ((i, j) for i in range(3) for j in range(3))
    return sum(padded[:, i : i + image.out_height, j : j + image.out_width] @ weight[:, :, i, j].T.astype(np.float64) for i, j in taps)


def test_every_size_tiling_and_epilogue(built, rng):
    kernels, run = built
    assert {kernel.epilogue for kernel in kernels} == set(EPILOGUES)
    for kernel in kernels:
        x, weight, given = operands(kernel, rng)
        expected = finished(kernel.epilogue, convolved(kernel.image, x, weight), *given[2:])
        np.testing.assert_allclose(run(kernel, given), expected, atol=1e-5 + 5e-7 * kernel.image.channels, rtol=2e-6, err_msg=str(kernel))


def test_the_plain_meaning_agrees(built, rng):
    kernels, run = built
    for kernel in kernels[::5]:
        _, _, given = operands(kernel, rng)
        np.testing.assert_allclose(run(kernel, given), winograd_meaning(kernel, *given), atol=1e-4, rtol=1e-5, err_msg=str(kernel))


def test_nan_stays_where_it_is_read(built, rng):
    """A transformed tile mixes its own sixteen inputs: NaN reaches the tile's results, and no other image."""
    kernels, run = built
    for kernel in (kernel for kernel in kernels if kernel.image.batch > 1):
        x, weight, given = operands(kernel, rng)
        x[1, 0, 0, 0] = np.nan
        got = np.isnan(run(kernel, given))
        assert not got[0].any()
        assert got[np.isnan(finished(kernel.epilogue, convolved(kernel.image, x, weight), *given[2:]))].all()


@pytest.mark.parametrize("lanes", [8, 16])
def test_default_tilings_fit(lanes):
    for *shape, outputs in SIZES:
        image = image_of(*shape)
        for cores in (1, 2, 64):
            _, tiling = winograd_tiling(image, outputs, lanes, cores)
            kernel = Winograd(image, outputs, tiling)
            assert tiling.tiles <= tiling.block <= kernel.num_tiles
            assert tiling.panel <= outputs
            assert POSITIONS * tiling.block * (image.channels + tiling.panel) * 4 <= SCRATCH_BYTES
    assert winograd_tiling(image_of(1, 8, 8, (1, 1, 1, 1), lanes - 1), 64, lanes, 2) is None
