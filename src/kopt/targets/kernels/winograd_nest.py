"""The loop nest of the Winograd convolution kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.emit import Buffer, Expression, Vectors, function, index
from kopt.targets.kernels.sliding_nest import views
from kopt.targets.kernels.tile import RegisterTile, first_of, part, unrolled
from kopt.targets.kernels.winograd import POSITIONS, TILE, Winograd

_EDGE = TILE + 2


@dataclass(frozen=True)
class _Scratch:
    """What lies between the stages: transformed input (16, block, C), products (16, block, panel), and 16 vectors."""

    inputs: Buffer
    products: Buffer
    vectors: Buffer


def emit_winograd(kernel: Winograd, name: str, lanes: int) -> Any:
    """One task: its tiles transformed, then panel by panel the 16 products and the transform back."""
    tiling, vectors = kernel.tiling, Vectors(lanes)
    group, blocks = -(-kernel.panels // tiling.panel_tasks), -(-kernel.num_tiles // tiling.block)
    with IRBuilder() as builder, function(name, views(kernel.operands), kernel.result) as (arrays, y, task):
        block, panels = task % blocks, task // blocks
        first = first_of(block, tiling.block, kernel.num_tiles)
        scratch = _Scratch(
            build.alloc_buffer((POSITIONS, tiling.block, kernel.image.channels), "float32", scope="local"),
            build.alloc_buffer((POSITIONS, tiling.block, tiling.panel), "float32", scope="local"),
            build.alloc_buffer((2 * POSITIONS * lanes,), "float32", scope="local"),
        )
        with build.serial(tiling.block) as i:
            _transform(kernel, vectors, scratch, arrays[0], i, first + i)
        with build.serial(group) as p:
            panel = part(panels, p, group, kernel.panels)
            _multiply(kernel, vectors, scratch, arrays[1], panel)
            with build.serial(tiling.block) as i:
                _transform_back(kernel, vectors, scratch, arrays, y, (panel, i, first + i))
    return builder.get()


def _corner(kernel: Winograd, tile: Expression) -> tuple[Expression, Expression, Expression]:
    """Image, first output row and first output column of a tile."""
    across, down = kernel.tile_columns, kernel.tile_rows
    return tile // (across * down), tile // across % down * TILE, tile % across * TILE


def _transform(kernel: Winograd, vectors: Vectors, scratch: _Scratch, x: Buffer, i: Expression, tile: Expression) -> None:
    """B^T d B of one tile, channels by the vector; beyond the border d is zero."""
    image = kernel.image
    picture, row, column = _corner(kernel, tile)
    top, left = row - image.pads[0], column - image.pads[1]
    inside = tirx.all(top >= 0, left >= 0, top + _EDGE <= image.height, left + _EDGE <= image.width)

    def read(r: int, s: int, channel: Expression, guarded: bool) -> Expression:
        source = vectors.load(x, picture * image.height + top + r, (left + s) * image.channels + channel)
        if not guarded:
            return source
        within = tirx.all(top + r >= 0, top + r < image.height, left + s >= 0, left + s < image.width)
        return tirx.if_then_else(within, source, vectors.constant(0.0))

    def all_channels(guarded: bool) -> None:
        with build.serial(-(-image.channels // vectors.lanes)) as c:
            channel = first_of(c, vectors.lanes, image.channels)
            patch = _Matrix(vectors, scratch.vectors, 0)
            patch.fill(_EDGE, _EDGE, lambda r, s: read(r, s, channel, guarded))
            half = _Matrix(vectors, scratch.vectors, POSITIONS)
            half.fill(_EDGE, _EDGE, lambda r, s: _input_step(r, lambda k: patch.at(k, s)))
            for r in range(_EDGE):
                for s in range(_EDGE):
                    value = _input_step(s, partial(half.at, r))
                    vectors.store(scratch.inputs, value, index(r * _EDGE + s), i, channel)

    with build.If(inside):
        with build.Then():
            all_channels(guarded=False)
        with build.Else():
            all_channels(guarded=True)


def _input_step(row: int, d: Callable[[int], Expression]) -> Expression:
    """Row ``row`` of B^T times d, for F(2, 3)."""
    return (lambda: d(0) - d(2), lambda: d(1) + d(2), lambda: d(2) - d(1), lambda: d(1) - d(3))[row]()


def _output_step(row: int, m: Callable[[int], Expression]) -> Expression:
    """Row ``row`` of A^T times m, for F(2, 3)."""
    return (lambda: m(0) + m(1) + m(2), lambda: m(1) - m(2) - m(3))[row]()


class _Matrix:
    """A small matrix of vectors, kept in registers once its loops are written out."""

    def __init__(self, vectors: Vectors, buffer: Buffer, first: int) -> None:
        self._vectors, self._buffer, self._first = vectors, buffer, first

    def _place(self, row: int, column: int) -> Expression:
        return index((self._first + row * _EDGE + column) * self._vectors.lanes)

    def fill(self, rows: int, columns: int, value: Callable[[int, int], Expression]) -> None:
        """Every element from its row and column."""
        for row in range(rows):
            for column in range(columns):
                self._vectors.store(self._buffer, value(row, column), self._place(row, column))

    def at(self, row: int, column: int) -> Expression:
        """One vector."""
        return self._vectors.load(self._buffer, self._place(row, column))


def _multiply(kernel: Winograd, vectors: Vectors, scratch: _Scratch, w: Buffer, panel: Expression) -> None:
    """For each of the 16 positions, transformed tiles times transformed weights."""
    tiling, channels = kernel.tiling, kernel.image.channels
    with build.serial(POSITIONS) as position, build.serial(-(-tiling.block // tiling.tiles)) as t:
        first = first_of(t, tiling.tiles, tiling.block)
        tile = RegisterTile(vectors, tiling.tiles, tiling.panel)
        tile.start(None)

        def step(c: Expression) -> None:
            tile.multiply(
                lambda i: scratch.inputs[position, first + i, c],
                lambda j: vectors.load(w, position, panel, c, index(j)),
            )

        unrolled(channels, tiling.unroll, step)
        tile.finish(None, None, lambda i, j, value: vectors.store(scratch.products, value, position, first + i, index(j)))


def _transform_back(
    kernel: Winograd, vectors: Vectors, scratch: _Scratch, arrays: list[Buffer], y: Buffer, where: tuple[Expression, Expression, Expression]
) -> None:
    """A^T m A of one tile, then the epilogue; rows and columns beyond the result are not written."""
    panel, i, tile = where
    image, epilogue = kernel.image, kernel.epilogue
    picture, row, column = _corner(kernel, tile)
    for j in range(0, kernel.tiling.panel, vectors.lanes):
        channel = first_of(panel, kernel.tiling.panel, kernel.outputs) + j
        products = _Matrix(vectors, scratch.vectors, 0)
        products.fill(_EDGE, _EDGE, lambda r, s, j=j: vectors.load(scratch.products, index(r * _EDGE + s), i, index(j)))  # type: ignore[misc]
        half = _Matrix(vectors, scratch.vectors, POSITIONS)
        half.fill(TILE, _EDGE, lambda r, s: _output_step(r, lambda k: products.at(k, s)))  # noqa: B023
        for r in range(TILE):
            for s in range(TILE):
                place = (picture, row + r, column + s, channel)
                value = _output_step(s, partial(half.at, r))
                value = value + vectors.load(arrays[2], channel) if epilogue.bias else value
                with build.If(tirx.all(row + r < image.out_height, column + s < image.out_width)), build.Then():
                    value = value + vectors.load(arrays[-1], *place) if epilogue.residual else value
                    vectors.store(y, vectors.activation(epilogue.activation, value, epilogue.low, epilogue.high), *place)
