"""The loop nest of the convolution kernel."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.conv import Conv, Image
from kopt.targets.kernels.emit import Buffer, Expression, Vectors, function, index
from kopt.targets.kernels.rows import Reader, input_rows
from kopt.targets.kernels.tile import RegisterTile, first_of, part, unrolled


def emit_conv(kernel: Conv, name: str, lanes: int) -> Any:
    """One task: the rows it reads, then panels, rows, tiles of pixels, and the sum with a tile of results in registers."""
    image, tiling, vectors = kernel.image, kernel.tiling, Vectors(lanes)
    group = -(-kernel.panels // tiling.panel_tasks)
    with IRBuilder() as builder, function(name, views(kernel.operands), kernel.result) as (arrays, y, task):
        block, panels = task % (image.batch * kernel.row_tasks), task // (image.batch * kernel.row_tasks)
        picture, first = block // kernel.row_tasks, first_of(block % kernel.row_tasks, tiling.rows, image.out_height)
        source = input_rows(image, tiling.rows, vectors, arrays[0], picture, first)
        with build.serial(group) as p, build.serial(tiling.rows) as row, build.serial(-(-image.out_width // tiling.pixels)) as t:
            panel = part(panels, p, group, kernel.panels)
            column = first_of(t, tiling.pixels, image.out_width)
            tile = _start(kernel, vectors, arrays, panel)
            _accumulate(kernel, tile, source, arrays[1], panel, row, column)
            _finish(kernel, tile, arrays, y, panel, (picture, first + row, column))
    return builder.get()


def views(operands: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Operand shapes with the images as (N * H, W * C)."""
    batch, height, width, channels = operands[0]
    return ((batch * height, width * channels), *operands[1:])


def segments(image: Image, length: int) -> list[tuple[int, int, int, int]]:
    """(kernel row, offset in the input row, first term, number of terms) of the runs of a sum that lie next to each other.

    Args:
        image: sizes.
        length: elements of the input row that one column of the kernel takes.
    """
    (kh, kw), channels = image.kernel, image.channels
    if image.dilations[1] == 1:
        return [(i, 0, i * kw * length, kw * length) for i in range(kh)]
    return [(i, j * image.dilations[1] * channels, (i * kw + j) * length, length) for i in range(kh) for j in range(kw)]


def _start(kernel: Conv, vectors: Vectors, arrays: list[Buffer], panel: Expression) -> RegisterTile:
    tile = RegisterTile(vectors, kernel.tiling.pixels, kernel.tiling.panel)
    channel = first_of(panel, kernel.tiling.panel, kernel.outputs)
    tile.start((lambda j: vectors.load(arrays[2], channel + j)) if kernel.epilogue.bias else None)
    return tile


def _accumulate(
    kernel: Conv, tile: RegisterTile, source: tuple[Buffer, Reader], w: Buffer, panel: Expression, row: Expression, column: Expression
) -> None:
    image, (rows, reader) = kernel.image, source
    stride = image.strides[1] * image.channels

    for i, offset, first, count in segments(image, image.channels):

        def step(k: Expression, i: int = i, offset: int = offset, first: int = first) -> None:
            below = row * image.strides[0] + i * image.dilations[0]
            tile.multiply(
                lambda pixel: rows[reader(below, (column + pixel) * stride + offset + k)],
                lambda j: tile.vectors.load(w, panel, first + k, index(j)),
            )

        unrolled(count, kernel.tiling.unroll, step)


def _finish(
    kernel: Conv, tile: RegisterTile, arrays: list[Buffer], y: Buffer, panel: Expression, where: tuple[Expression, Expression, Expression]
) -> None:
    vectors, (picture, row, column) = tile.vectors, where
    channel = first_of(panel, kernel.tiling.panel, kernel.outputs)
    added = (lambda i, j: vectors.load(arrays[-1], picture, row, column + i, channel + j)) if kernel.epilogue.residual else None
    tile.finish(kernel.epilogue, added, lambda i, j, value: vectors.store(y, value, picture, row, column + i, channel + j))
