"""How a kernel divides its work: register tiles and tasks, and the choice made without a search."""

from __future__ import annotations

from dataclasses import dataclass

from kopt.space import Constraint, Knob, SearchSpace

REGISTERS = {16: 32, 8: 16, 4: 32}
"""Vector registers by lanes: AVX-512, AVX2, NEON."""

FORMS = (
    *((8, 3), (4, 4), (6, 4), (12, 2), (14, 2), (8, 2), (7, 3), (7, 2), (6, 2), (4, 2), (4, 3)),
    *((14, 1), (8, 1), (4, 1), (2, 4), (2, 2), (1, 4), (1, 1)),
)
"""Register tiles (rows, vectors) worth trying, the ones that ran best first. Source: measured on Zen 5 with AVX-512."""

CHUNK_BYTES = 512 * 1024
"""Rows of the left operand that a task reads again for every panel should stay in the second-level cache."""


@dataclass(frozen=True)
class ProductTiling:
    """Tiles and tasks of a product.

    Attributes:
        rows: of a register tile.
        panel: columns of a register tile, a multiple of the vector's lanes.
        unroll: steps of K written out.
        row_tasks: chunks the rows are divided into.
        panel_tasks: groups the panels are divided into.
        panels_first: 1 where consecutive tasks take the groups of panels of the same rows, 0 where they take the chunks of
            rows of the same panels. The threads begin at either end, so each keeps its own rows in the one case, its own
            weights in the other.
    """

    rows: int
    panel: int
    unroll: int
    row_tasks: int
    panel_tasks: int
    panels_first: int = 0


def product_tiling(m: int, k: int, n: int, lanes: int, cores: int) -> ProductTiling:
    """The tiling taken without a search: least padding, then most accumulators; enough tasks for all cores.

    Args:
        m: rows.
        k: terms of a sum.
        n: columns.
        lanes: elements of a vector register; n >= lanes.
        cores: threads that share the tasks.
    """
    allowed = [(r, v) for r, v in FORMS if r <= m and v * lanes <= n and r * v + v < REGISTERS[lanes]]
    rows, vectors = min(allowed, key=lambda form: (_cost(m, n, lanes, *form), FORMS.index(form)))
    return _tasks(m, k, n, rows, vectors * lanes, cores)


def _cost(m: int, n: int, lanes: int, rows: int, vectors: int) -> float:
    """Estimated vector operations per useful one: padding, and loads that a small tile cannot hide."""
    panel = vectors * lanes
    padded = (-(-m // rows) * rows / m) * (-(-n // panel) * panel / n)
    multiplies, loads = rows * vectors, rows + vectors
    return round(padded * max(1.0, 0.5 + loads / multiplies), 3)


def _tasks(m: int, k: int, n: int, rows: int, panel: int, cores: int) -> ProductTiling:
    panels, tiles = -(-n // panel), -(-m // rows)
    row_tasks = min(tiles, max(1, -(-m * k * 4 // CHUNK_BYTES)))
    panel_tasks = panels
    while row_tasks * panel_tasks < 4 * cores and row_tasks < tiles:
        row_tasks = min(tiles, row_tasks * 2)
    chunk = -(-tiles // row_tasks)
    return ProductTiling(rows, panel, 4, -(-tiles // chunk), panel_tasks, int(n < m))


def product_space(m: int, k: int, n: int, lanes: int, cores: int) -> SearchSpace:
    """Every tiling worth trying for a product."""
    default = product_tiling(m, k, n, lanes, cores)
    forms = [(r, v) for r, v in FORMS if r <= m and v * lanes <= n and r * v + v < REGISTERS[lanes]]
    rows = tuple(sorted({r for r, _ in forms}))
    panel = tuple(sorted({v * lanes for _, v in forms}))
    chunks = tuple(sorted({default.row_tasks, *(c for c in (1, 2, 4, 8, 16, 32) if c <= -(-m // min(rows)))}))
    return SearchSpace(
        (
            Knob("rows", rows, default.rows),
            Knob("panel", panel, default.panel),
            Knob("unroll", (1, 2, 4, 8), default.unroll),
            Knob("row_tasks", chunks, default.row_tasks),
            Knob("panel_tasks", tuple(sorted({default.panel_tasks, *(c for c in (1, 2, 4, 8, 16, 32, 64))})), default.panel_tasks),
            Knob("panels_first", (0, 1), default.panels_first),
        ),
        (
            Constraint(("rows", "panel"), lambda r, p: (r, p // lanes) in forms, "the accumulators fit the registers"),
            Constraint(("panel", "panel_tasks"), lambda p, t: t <= -(-n // p), "no task is empty"),
        ),
    )
