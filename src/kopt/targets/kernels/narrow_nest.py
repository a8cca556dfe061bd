"""The loop nests of products and convolutions on narrow numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.conv_nest import accumulate
from kopt.targets.kernels.emit import Buffer, Expression, Vectors, index
from kopt.targets.kernels.narrow import NarrowProduct
from kopt.targets.kernels.narrow_conv import NarrowConv
from kopt.targets.kernels.narrow_tile import NarrowTile, narrow_function
from kopt.targets.kernels.rows import input_rows
from kopt.targets.kernels.sliding_nest import Place, views
from kopt.targets.kernels.tile import first_of, part, unrolled


def emit_narrow_product(kernel: NarrowProduct, name: str, lanes: int) -> Any:
    """One task: its panels, their tiles of rows, and words of K with a tile of results in registers."""
    tiling, vectors = kernel.tiling, Vectors(lanes)
    tiles = -(-kernel.m // tiling.rows)
    chunk, group = -(-tiles // tiling.row_tasks), -(-kernel.panels // tiling.panel_tasks)
    with IRBuilder() as builder, narrow_function(name, kernel, in_words(kernel)) as (arrays, y, task):
        rows, panels = task % tiling.row_tasks, task // tiling.row_tasks
        with build.serial(group) as p, build.serial(chunk) as r:
            panel = part(panels, p, group, kernel.panels)
            row = first_of(part(rows, r, chunk, tiles), tiling.rows, kernel.m)
            _product_tile(kernel, NarrowTile(vectors, tiling.rows, tiling.panel, kernel, arrays), y, panel, row)
    return builder.get()


def _product_tile(kernel: NarrowProduct, tile: NarrowTile, y: Buffer, panel: Expression, row: Expression) -> None:
    x, w = tile.arrays[:2]
    column = first_of(panel, kernel.tiling.panel, kernel.n)
    tile.begin(column)

    def step(k: Expression) -> None:
        tile.multiply(lambda i: x[row + i, k], lambda j: tile.vectors.load(w, panel, k, index(j)))

    unrolled(kernel.words, kernel.tiling.unroll, step)
    tile.end(column, y, lambda i, j: (row + i, column + j))


def in_words(kernel: NarrowProduct | NarrowConv) -> list[tuple[int, ...]]:
    """Shapes of the operands with words in the place of narrow numbers."""
    x, w, *rest = kernel.operands
    return [(*x[:-1], x[-1] // kernel.formats.per_word), w[:-1], *rest]


def emit_narrow_conv(kernel: NarrowConv, name: str, lanes: int) -> Any:
    """One task: the rows it reads, then panels, rows, tiles of pixels, and the window with a tile of results in registers."""
    image, tiling, vectors = kernel.in_words, kernel.tiling, Vectors(lanes)
    group = -(-kernel.panels // tiling.panel_tasks)
    with IRBuilder() as builder, narrow_function(name, kernel, views(tuple(in_words(kernel)))) as (arrays, y, task):
        block, panels = task % (image.batch * kernel.row_tasks), task // (image.batch * kernel.row_tasks)
        picture, first = block // kernel.row_tasks, first_of(block % kernel.row_tasks, tiling.rows, image.out_height)
        border = arrays[5][index(0)] if kernel.formats.is_integer else index(0)
        rows, reader = input_rows(image, tiling.rows, vectors, arrays[0], picture, first, border)
        with build.serial(group) as p, build.serial(tiling.rows) as row, build.serial(-(-image.out_width // tiling.pixels)) as t:
            panel = part(panels, p, group, kernel.panels)
            place = Place(panel, first_of(panel, tiling.panel, kernel.outputs), row, first_of(t, tiling.pixels, image.out_width))
            tile = NarrowTile(vectors, tiling.pixels, tiling.panel, kernel, arrays)
            tile.begin(place.channel)
            accumulate(image, tiling.unroll, tile, (rows, reader), arrays[1], place)
            tile.end(place.channel, y, partial(_at, (picture, first + row), place))
    return builder.get()


def _at(line: tuple[Expression, Expression], place: Place, i: int, j: int) -> tuple[Expression, ...]:
    """Where pixel i and channels j of a tile lie in the result."""
    return (*line, place.column + i, place.channel + j)
