"""The loops that kernels sliding over an image share: rows of a task, panels, tiles of pixels, and what follows the sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.conv import Sliding
from kopt.targets.kernels.emit import Buffer, Expression, Vectors, function
from kopt.targets.kernels.rows import Reader, input_rows
from kopt.targets.kernels.tile import RegisterTile, first_of, part


@dataclass(frozen=True)
class Place:
    """Where a register tile works.

    Attributes:
        panel: group of output channels.
        channel: its first output channel.
        row: output row within the task's block.
        column: first output column.
    """

    panel: Expression
    channel: Expression
    row: Expression
    column: Expression


Accumulate = Callable[[RegisterTile, Buffer, Reader, Buffer, Place], None]
"""Adds the whole sum to a tile: (tile, input rows, their reader, weights, place)."""


def emit_sliding(kernel: Sliding, name: str, lanes: int, accumulate: Accumulate) -> Any:
    """One task: the rows it reads, then panels, rows, tiles of pixels; a tile of results stays in registers over its sum."""
    image, tiling, vectors = kernel.image, kernel.tiling, Vectors(lanes)
    group = -(-kernel.panels // tiling.panel_tasks)
    with IRBuilder() as builder, function(name, views(kernel.operands), kernel.result) as (arrays, y, task):
        block, panels = task % (image.batch * kernel.row_tasks), task // (image.batch * kernel.row_tasks)
        picture, first = block // kernel.row_tasks, first_of(block % kernel.row_tasks, tiling.rows, image.out_height)
        rows, reader = input_rows(image, tiling.rows, vectors, arrays[0], picture, first)
        with build.serial(group) as p, build.serial(tiling.rows) as row, build.serial(-(-image.out_width // tiling.pixels)) as t:
            panel = part(panels, p, group, kernel.panels)
            place = Place(panel, first_of(panel, tiling.panel, kernel.result[-1]), row, first_of(t, tiling.pixels, image.out_width))
            tile = RegisterTile(vectors, tiling.pixels, tiling.panel)
            tile.start((lambda j: vectors.load(arrays[2], place.channel + j)) if kernel.epilogue.bias else None)
            accumulate(tile, rows, reader, arrays[1], place)
            _finish(kernel, tile, arrays[-1], y, (picture, first + row), place)
    return builder.get()


def _finish(kernel: Sliding, tile: RegisterTile, last: Buffer, y: Buffer, line: tuple[Expression, Expression], place: Place) -> None:
    def at(i: int, j: int) -> tuple[Expression, ...]:
        return (*line, place.column + i, place.channel + j)

    added = (lambda i, j: tile.vectors.load(last, *at(i, j))) if kernel.epilogue.residual else None
    tile.finish(kernel.epilogue, added, lambda i, j, value: tile.vectors.store(y, value, *at(i, j)))


def views(operands: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Operand shapes with the images as (N * H, W * C)."""
    batch, height, width, channels = operands[0]
    return ((batch * height, width * channels), *operands[1:])
