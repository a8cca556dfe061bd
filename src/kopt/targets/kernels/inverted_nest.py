"""The loop nest of the inverted residual kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.emit import Buffer, Expression, Vectors, function, index
from kopt.targets.kernels.inverted import InvertedResidual
from kopt.targets.kernels.tile import RegisterTile, first_of, unrolled


@dataclass(frozen=True)
class _Task:
    """What the stages of a task share.

    Attributes:
        kernel: sizes.
        vectors: the register width.
        x: the images as (N * H * W, C).
        y: the result as (N * OH * OW, M).
        wide: a ring of padded rows of the wide image, (ring, needed width * E).
        slid: results of the depthwise convolution, (rows * OW, E).
        picture: which image.
    """

    kernel: InvertedResidual
    vectors: Vectors
    x: Buffer
    y: Buffer
    wide: Buffer
    slid: Buffer
    picture: Expression

    def slot(self, row: Expression) -> Expression:
        """Where in the ring a padded row lies."""
        return tirx.bitwise_and(row, index(self.kernel.ring - 1))


def emit_inverted(kernel: InvertedResidual, name: str, lanes: int) -> Any:
    """One task: down its block, the missing rows of the wide image, their convolution, and the last product."""
    image, tiling, vectors = kernel.image, kernel.tiling, Vectors(lanes)
    x, *weights = kernel.operands
    shapes = ((x[0] * x[1] * x[2], x[3]), *weights)
    result = (image.batch * image.out_height * image.out_width, kernel.outputs)
    with IRBuilder() as builder, function(name, shapes, result) as (arrays, y, number):
        wide = build.alloc_buffer((kernel.ring, image.needed_width * image.channels), "float32", scope="local")
        slid = build.alloc_buffer((tiling.rows * image.out_width, image.channels), "float32", scope="local")
        task = _Task(kernel, vectors, arrays[0], y, wide, slid, number // kernel.blocks)
        block = first_of(number % kernel.blocks, tiling.block, image.out_height)
        _clear_borders(task)
        kept = max(0, image.kernel[0] - image.strides[0])
        with build.serial(tiling.block // tiling.rows) as step:
            row = block + step * tiling.rows
            begin = tirx.Select(step == 0, index(0), index(kept))
            _widen(task, arrays[1:3] if kernel.expands else [], row * image.strides[0], begin)
            _slide(task, arrays[-4], arrays[-3], row * image.strides[0])
            _project(task, arrays[-2], arrays[-1], row)
    return builder.get()


def _clear(task: _Task, slot: Expression, first: int, last: int) -> None:
    """Zeros in columns [first, last) of a row of the ring."""
    channels, vectors = task.kernel.image.channels, task.vectors
    count = (last - first) * channels
    if count:
        with build.serial(-(-count // vectors.lanes)) as step:
            vectors.store(task.wide, vectors.constant(0.0), slot, first_of(step, vectors.lanes, count) + first * channels)


def _inside(task: _Task) -> tuple[int, int]:
    """Columns [first, last) of a padded row that lie in the image."""
    image = task.kernel.image
    return image.pads[1], min(image.pads[1] + image.width, image.needed_width)


def _clear_borders(task: _Task) -> None:
    first, last = _inside(task)
    with build.serial(task.kernel.ring) as slot:
        _clear(task, slot, 0, first)
        _clear(task, slot, last, task.kernel.image.needed_width)


def _widen(task: _Task, weights: list[Buffer], top: Expression, begin: Expression) -> None:
    """Padded rows [top + begin, top + needed) of the wide image into the ring: the first product, or x itself."""
    kernel, image, vectors = task.kernel, task.kernel.image, task.vectors
    needed, (first, last) = image.needed_rows(kernel.tiling.rows), _inside(task)
    pixels, panel = kernel.tiling.expand if kernel.expands else (1, vectors.lanes)

    def each_row(body: Callable[[Expression, Expression], None]) -> None:
        with build.serial(begin, index(needed)) as i:
            place = top + i - image.pads[0]
            with build.If(tirx.all(place >= 0, place < image.height)), build.Then():
                body(task.slot(top + i), (task.picture * image.height + place) * image.width)

    with build.serial(begin, index(needed)) as i:
        place = top + i - image.pads[0]
        with build.If(tirx.any(place < 0, place >= image.height)), build.Then():
            _clear(task, task.slot(top + i), first, last)
    with build.serial(-(-image.channels // panel)) as p:
        channel = first_of(p, panel, image.channels)

        def expanded(slot: Expression, source: Expression) -> None:
            with build.serial(-(-(last - first) // pixels)) as t:
                column = first_of(t, pixels, last - first)
                tile = RegisterTile(vectors, pixels, panel)
                tile.start(lambda j: vectors.load(weights[1], channel + j))
                _multiply(tile, kernel, kernel.inputs, lambda i, k: task.x[source + column + i, k], (weights[0], p))
                tile.finish(kernel.inner, None, lambda i, j, value: vectors.store(task.wide, value, slot, at(column + i) + j))

        def copied(slot: Expression, source: Expression) -> None:
            with build.serial(last - first) as column:
                vectors.store(task.wide, vectors.load(task.x, source + column, channel), slot, at(column))

        def at(column: Expression) -> Expression:
            return (column + first) * image.channels + channel

        each_row(expanded if kernel.expands else copied)


def _multiply(
    tile: RegisterTile,
    kernel: InvertedResidual,
    depth: int,
    left: Callable[[int, Expression], Expression],
    right: tuple[Buffer, Expression],
) -> None:
    """Adds a product to a tile: numbers ``left(row, k)`` times a panel of packed weights."""

    def step(k: Expression) -> None:
        tile.multiply(lambda i: left(i, k), lambda j: tile.vectors.load(right[0], right[1], k, index(j)))

    unrolled(depth, kernel.tiling.unroll, step)


def _slide(task: _Task, filters: Buffer, bias: Buffer, top: Expression) -> None:
    """The depthwise convolution of ``rows`` rows, from the ring into ``slid``."""
    kernel, image, vectors = task.kernel, task.kernel.image, task.vectors
    pixels, panel = kernel.tiling.slide
    with (
        build.serial(-(-image.channels // panel)) as p,
        build.serial(kernel.tiling.rows) as row,
        build.serial(-(-image.out_width // pixels)) as t,
    ):
        channel, column = first_of(p, panel, image.channels), first_of(t, pixels, image.out_width)
        tile = RegisterTile(vectors, pixels, panel)
        tile.start(lambda j: vectors.load(bias, channel + j))
        for tap in range(image.kernel[0] * image.kernel[1]):
            below, beside = divmod(tap, image.kernel[1])
            slot = task.slot(top + row * image.strides[0] + below)

            def read(i: int, j: int, slot: Expression = slot, beside: int = beside) -> Expression:
                return vectors.load(task.wide, slot, ((column + i) * image.strides[1] + beside) * image.channels + channel + j)

            def weight(j: int, tap: int = tap) -> Expression:
                return vectors.load(filters, index(tap), channel + j)

            tile.multiply_each(read, weight)
        first = row * image.out_width + column
        tile.finish(kernel.inner, None, lambda i, j, value: vectors.store(task.slid, value, first + i, channel + j))


def _project(task: _Task, weights: Buffer, bias: Buffer, row: Expression) -> None:
    """The last product of ``rows`` rows, and what follows it."""
    kernel, image, vectors = task.kernel, task.kernel.image, task.vectors
    pixels, panel = kernel.tiling.project
    count = kernel.tiling.rows * image.out_width
    below = (task.picture * image.out_height + row) * image.out_width
    with build.serial(-(-kernel.outputs // panel)) as p, build.serial(-(-count // pixels)) as t:
        channel, first = first_of(p, panel, kernel.outputs), first_of(t, pixels, count)
        tile = RegisterTile(vectors, pixels, panel)
        tile.start(lambda j: vectors.load(bias, channel + j))
        _multiply(tile, kernel, image.channels, lambda i, k: task.slid[first + i, k], (weights, p))
        added = (lambda i, j: vectors.load(task.x, below + first + i, channel + j)) if kernel.outer.residual else None
        tile.finish(kernel.outer, added, lambda i, j, value: vectors.store(task.y, value, below + first + i, channel + j))
