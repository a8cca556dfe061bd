"""The loop nest of the depthwise convolution kernel."""

from __future__ import annotations

from functools import partial
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.conv import Depthwise
from kopt.targets.kernels.conv_nest import views
from kopt.targets.kernels.emit import Buffer, Expression, Vectors, function, index
from kopt.targets.kernels.rows import Reader, input_rows
from kopt.targets.kernels.tile import RegisterTile, first_of, part


def emit_depthwise(kernel: Depthwise, name: str, lanes: int) -> Any:
    """One task: the rows it reads, then groups of channels, rows, tiles of pixels; the kernel's window is written out."""
    image, tiling, vectors = kernel.image, kernel.tiling, Vectors(lanes)
    group = -(-kernel.panels // tiling.panel_tasks)
    with IRBuilder() as builder, function(name, views(kernel.operands), kernel.result) as (arrays, y, task):
        block, panels = task % (image.batch * kernel.row_tasks), task // (image.batch * kernel.row_tasks)
        picture, first = block // kernel.row_tasks, first_of(block % kernel.row_tasks, tiling.rows, image.out_height)
        source = input_rows(image, tiling.rows, vectors, arrays[0], picture, first)
        with build.serial(group) as p, build.serial(tiling.rows) as row, build.serial(-(-image.out_width // tiling.pixels)) as t:
            channel = first_of(part(panels, p, group, kernel.panels), tiling.panel, image.channels)
            column = first_of(t, tiling.pixels, image.out_width)
            tile = RegisterTile(vectors, tiling.pixels, tiling.panel)
            tile.start((lambda j: vectors.load(arrays[2], channel + j)) if kernel.epilogue.bias else None)
            _accumulate(kernel, tile, source, arrays[1], (row, column, channel))
            where = (picture, first + row)
            added = (lambda i, j: vectors.load(arrays[-1], *where, column + i, channel + j)) if kernel.epilogue.residual else None
            tile.finish(kernel.epilogue, added, lambda i, j, value: vectors.store(y, value, *where, column + i, channel + j))
    return builder.get()


def _accumulate(
    kernel: Depthwise, tile: RegisterTile, source: tuple[Buffer, Reader], w: Buffer, where: tuple[Expression, Expression, Expression]
) -> None:
    image, (rows, reader), (row, column, channel) = kernel.image, source, where
    vectors, channels = tile.vectors, image.channels
    for ky in range(image.kernel[0]):
        below = row * image.strides[0] + ky * image.dilations[0]
        for kx in range(image.kernel[1]):
            offset, tap = kx * image.dilations[1], ky * image.kernel[1] + kx

            def read(pixel: int, j: int, below: Expression = below, offset: int = offset) -> Expression:
                place = ((column + pixel) * image.strides[1] + offset) * channels + channel + j
                return vectors.load(rows, *reader(below, place))

            tile.multiply_each(read, partial(_weights, vectors, w, tap, channel))


def _weights(vectors: Vectors, w: Buffer, tap: int, channel: Expression, j: int) -> Expression:
    return vectors.load(w, index(tap), channel + j)
