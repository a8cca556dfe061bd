"""The loop nest of the convolution kernel."""

from __future__ import annotations

from functools import partial
from typing import Any

from kopt.targets.kernels.conv import Conv, Image
from kopt.targets.kernels.emit import Buffer, Expression, index
from kopt.targets.kernels.rows import Reader
from kopt.targets.kernels.sliding_nest import Place, emit_sliding
from kopt.targets.kernels.tile import RegisterTile, unrolled


def emit_conv(kernel: Conv, name: str, lanes: int) -> Any:
    """Every output channel sums over the window and all input channels."""
    return emit_sliding(kernel, name, lanes, partial(_whole_sum, kernel))


def segments(image: Image) -> list[tuple[int, int, int, int]]:
    """(kernel row, offset in the input row, first term, number of terms) of the runs of a sum that lie next to each other."""
    (kh, kw), channels = image.kernel, image.channels
    if image.dilations[1] == 1:
        return [(i, 0, i * kw * channels, kw * channels) for i in range(kh)]
    return [(i, j * image.dilations[1] * channels, (i * kw + j) * channels, channels) for i in range(kh) for j in range(kw)]


def _whole_sum(kernel: Conv, tile: RegisterTile, rows: Buffer, reader: Reader, w: Buffer, place: Place) -> None:
    accumulate(kernel.image, kernel.tiling.unroll, tile, (rows, reader), w, place)


def accumulate(image: Image, unroll: int, tile: Any, source: tuple[Buffer, Reader], w: Buffer, place: Place) -> None:
    """Add the whole sum to a register tile of any numbers.

    Args:
        image: sizes, in elements of ``source``.
        unroll: terms written out.
        tile: a register tile.
        source: input rows and their reader.
        w: packed weights.
        place: where the tile lies.
    """
    rows, reader = source
    stride = image.strides[1] * image.channels

    for i, offset, first, count in segments(image):

        def step(k: Expression, i: int = i, offset: int = offset, first: int = first) -> None:
            below = place.row * image.strides[0] + i * image.dilations[0]
            tile.multiply(
                lambda pixel: rows[reader(below, (place.column + pixel) * stride + offset + k)],
                lambda j: tile.vectors.load(w, place.panel, first + k, index(j)),
            )

        unrolled(count, unroll, step)
