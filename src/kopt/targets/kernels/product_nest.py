"""The loop nest of the product kernel."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.emit import Buffer, Expression, Vectors, function, index
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.tile import RegisterTile, first_of, part, unrolled


def emit_product(kernel: Product, name: str, lanes: int) -> Any:
    """One task: its panels, their tiles of rows, and K with a tile of results in registers."""
    tiling = kernel.tiling
    tiles = -(-kernel.m // tiling.rows)
    chunk, group = -(-tiles // tiling.row_tasks), -(-kernel.panels // tiling.panel_tasks)
    with IRBuilder() as builder, function(name, kernel.operands, kernel.result) as (arrays, y, task):
        rows, panels = task % tiling.row_tasks, task // tiling.row_tasks
        if tiling.panels_first:
            rows, panels = task // tiling.panel_tasks, task % tiling.panel_tasks
        with build.serial(group) as p, build.serial(chunk) as r:
            panel = part(panels, p, group, kernel.panels)
            row = first_of(part(rows, r, chunk, tiles), tiling.rows, kernel.m)
            _tile(kernel, Vectors(lanes), arrays, y, panel, row)
    return builder.get()


def _tile(kernel: Product, vectors: Vectors, arrays: list[Buffer], y: Buffer, panel: Expression, row: Expression) -> None:
    x, w, *rest = arrays
    tiling = kernel.tiling
    column = first_of(panel, tiling.panel, kernel.n)
    tile = RegisterTile(vectors, tiling.rows, tiling.panel)
    tile.start((lambda j: vectors.load(rest[0], column + j)) if kernel.epilogue.bias else None)

    def step(k: Expression) -> None:
        tile.multiply(lambda i: x[row + i, k], lambda j: vectors.load(w, panel, k, index(j)))

    unrolled(kernel.k, tiling.unroll, step)
    added = (lambda i, j: vectors.load(rest[-1], row + i, column + j)) if kernel.epilogue.residual else None
    tile.finish(kernel.epilogue, added, lambda i, j, value: vectors.store(y, value, row + i, column + j))
