"""The loop nest of the depthwise convolution kernel."""

from __future__ import annotations

from functools import partial
from typing import Any

from kopt.targets.kernels.conv import Depthwise
from kopt.targets.kernels.emit import Buffer, Expression, index
from kopt.targets.kernels.rows import Reader
from kopt.targets.kernels.sliding_nest import Place, emit_sliding
from kopt.targets.kernels.tile import RegisterTile


def emit_depthwise(kernel: Depthwise, name: str, lanes: int) -> Any:
    """Every channel sums over the window alone, which is written out."""
    return emit_sliding(kernel, name, lanes, partial(_accumulate, kernel))


def _accumulate(kernel: Depthwise, tile: RegisterTile, rows: Buffer, reader: Reader, w: Buffer, place: Place) -> None:
    image, vectors = kernel.image, tile.vectors
    kh, kw = image.kernel
    for tap in range(kh * kw):
        below = place.row * image.strides[0] + tap // kw * image.dilations[0]
        offset = tap % kw * image.dilations[1]

        def read(pixel: int, j: int, below: Expression = below, offset: int = offset) -> Expression:
            column = (place.column + pixel) * image.strides[1] + offset
            return vectors.load(rows, *reader(below, column * image.channels + place.channel + j))

        tile.multiply_each(read, partial(_weights, tile, w, tap, place))


def _weights(tile: RegisterTile, w: Buffer, tap: int, place: Place, j: int) -> Expression:
    return tile.vectors.load(w, index(tap), place.channel + j)
