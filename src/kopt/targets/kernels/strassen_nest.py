"""The loop nest of Strassen's product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.emit import Buffer, Expression, Vectors, function, index
from kopt.targets.kernels.strassen import NUM_SUMS, STEPS, Strassen
from kopt.targets.kernels.tile import RegisterTile, first_of, part, unrolled

_SUMMED = [number for number, (left, _, _) in enumerate(STEPS) if len(left) == 2]


@dataclass(frozen=True)
class _Block:
    """What a task works on: x, the sums of its quarters for the task's rows, and the first rows of both halves."""

    kernel: Strassen
    vectors: Vectors
    x: Buffer
    sums: Buffer
    starts: tuple[Expression, Expression]

    def quarter(self, row: int, column: int, i: Expression, k: Expression) -> tuple[Expression, Expression]:
        """Where element (i, k) of a quarter lies, i counted within the block."""
        return self.starts[row] + i, k + column * (self.kernel.k // 2)


def emit_strassen(kernel: Strassen, name: str, lanes: int) -> Any:
    """One task: the sums of its rows, then panels, tiles of rows, and per tile the seven products."""
    tiling, vectors = kernel.tiling, Vectors(lanes)
    group, blocks = -(-kernel.panels // tiling.panel_tasks), -(-kernel.half_rows // tiling.block)
    with IRBuilder() as builder, function(name, kernel.operands, kernel.result) as (arrays, y, task):
        first = first_of(task % blocks, tiling.block, kernel.half_rows)
        sums = build.alloc_buffer((NUM_SUMS, tiling.block, kernel.k // 2), "float32", scope="local")
        block = _Block(kernel, vectors, arrays[0], sums, (first, first + (kernel.m - kernel.half_rows)))
        with build.serial(tiling.block) as i:
            _sum_quarters(block, i)
        tiles = -(-tiling.block // tiling.rows)
        results = build.alloc_buffer((tiles * 4, tiling.rows, tiling.panel), "float32", scope="local")
        with build.serial(group) as p:
            panel = part(task // blocks, p, group, kernel.panels)
            for number in range(len(STEPS)):
                with build.serial(tiles) as t:
                    _multiply(block, number, arrays[1], results, panel, t)
            with build.serial(tiles) as t:
                _finish(block, arrays, results, y, panel, t)
    return builder.get()


def _sum_quarters(block: _Block, i: Expression) -> None:
    """The left sides that are sums, for one row of the block."""
    vectors, half = block.vectors, block.kernel.k // 2
    with build.serial(-(-half // vectors.lanes)) as step:
        k = first_of(step, vectors.lanes, half)
        for place, number in enumerate(_SUMMED):
            (row, column, _), (other_row, other_column, sign) = STEPS[number][0]
            one = vectors.load(block.x, *block.quarter(row, column, i, k))
            other = vectors.load(block.x, *block.quarter(other_row, other_column, i, k))
            vectors.store(block.sums, one + other if sign > 0 else one - other, index(place), i, k)


def _multiply(block: _Block, number: int, w: Buffer, results: Buffer, panel: Expression, t: Expression) -> None:
    """One of the seven products for a tile, added to its quarters of the result."""
    kernel, vectors = block.kernel, block.vectors
    left, _, quarters = STEPS[number]
    begun = {(down, across) for _, _, earlier in STEPS[:number] for down, across, _ in earlier}
    tile = RegisterTile(vectors, kernel.tiling.rows, kernel.tiling.panel)
    tile.start(None)
    row = first_of(t, kernel.tiling.rows, kernel.tiling.block)
    unrolled(kernel.k // 2, kernel.tiling.unroll, _step(block, tile, number, left, (w, panel, row)))

    def store(i: int, j: int, value: Expression) -> None:
        for down, across, sign in quarters:
            where = (t * 4 + (2 * down + across), index(i), index(j))
            signed = value if sign > 0 else -value
            vectors.store(results, vectors.load(results, *where) + signed if (down, across) in begun else signed, *where)

    tile.finish(None, None, store)


def _step(
    block: _Block, tile: RegisterTile, number: int, left: Any, at: tuple[Buffer, Expression, Expression]
) -> Callable[[Expression], None]:
    """One term of the sums of a product."""
    w, panel, row = at

    def number_of(i: int, k: Expression) -> Expression:
        if number in _SUMMED:
            return block.sums[index(_SUMMED.index(number)), row + i, k]
        return block.x[block.quarter(left[0][0], left[0][1], row + i, k)]

    def step(k: Expression) -> None:
        tile.multiply(lambda i: number_of(i, k), lambda j: block.vectors.load(w, index(number), panel, k, index(j)))

    return step


def _finish(block: _Block, arrays: list[Buffer], results: Buffer, y: Buffer, panel: Expression, t: Expression) -> None:
    """Bias, residual and activation of the four tiles of results."""
    kernel, vectors = block.kernel, block.vectors
    epilogue, half = kernel.epilogue, kernel.n // 2
    column, row = first_of(panel, kernel.tiling.panel, half), first_of(t, kernel.tiling.rows, kernel.tiling.block)

    def finish(down: int, across: int, i: Expression) -> None:
        line = block.starts[down] + row + i
        for j in range(0, kernel.tiling.panel, vectors.lanes):
            place = column + (across * half + j)
            value = vectors.load(results, t * 4 + (2 * down + across), i, index(j))
            value = value + vectors.load(arrays[2], place) if epilogue.bias else value
            value = value + vectors.load(arrays[-1], line, place) if epilogue.residual else value
            vectors.store(y, vectors.activation(epilogue.activation, value, epilogue.low, epilogue.high), line, place)

    for down in (0, 1):
        with build.serial(kernel.tiling.rows) as i:
            if down and kernel.m % 2:  # the middle row is the upper half's
                with build.If(tirx.GT(block.starts[0] + row + i, index(0))), build.Then():
                    finish(down, 0, i)
                    finish(down, 1, i)
            else:
                finish(down, 0, i)
                finish(down, 1, i)
