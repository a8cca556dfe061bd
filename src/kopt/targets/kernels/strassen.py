"""Products with seven in place of eight multiplications, and what follows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kopt.targets.kernels.kernel import Epilogue
from kopt.targets.kernels.product import MatrixProduct
from kopt.targets.kernels.tiling import FORMS, REGISTERS

Quarters = tuple[tuple[int, int, int], ...]
"""Quarters of a matrix as (row, column, sign)."""

STEPS: tuple[tuple[Quarters, Quarters, Quarters], ...] = (
    # summed on the left, summed on the right, what the product is added to
    (((0, 0, 1), (1, 1, 1)), ((0, 0, 1), (1, 1, 1)), ((0, 0, 1), (1, 1, 1))),
    (((1, 0, 1), (1, 1, 1)), ((0, 0, 1),), ((1, 0, 1), (1, 1, -1))),
    (((0, 0, 1),), ((0, 1, 1), (1, 1, -1)), ((0, 1, 1), (1, 1, 1))),
    (((1, 1, 1),), ((1, 0, 1), (0, 0, -1)), ((0, 0, 1), (1, 0, 1))),
    (((0, 0, 1), (0, 1, 1)), ((1, 1, 1),), ((0, 0, -1), (0, 1, 1))),
    (((1, 0, 1), (0, 0, -1)), ((0, 0, 1), (0, 1, 1)), ((1, 1, 1),)),
    (((0, 1, 1), (1, 1, -1)), ((1, 0, 1), (1, 1, 1)), ((0, 0, 1),)),
)
"""The seven products. Source: Strassen, "Gaussian elimination is not optimal", 1969."""

NUM_SUMS = sum(len(left) == 2 for left, _, _ in STEPS)
"""Products whose left side is a sum of two quarters."""

SCRATCH_BYTES = 512 * 1024
"""Largest sums of quarters that a task may hold: they lie on the stack, and in the second-level cache."""


@dataclass(frozen=True)
class StrassenTiling:
    """Tiles and tasks of a product of halves.

    Attributes:
        rows: of a register tile.
        panel: columns of a register tile, a multiple of the vector's lanes.
        unroll: steps of K written out.
        block: rows of either half that a task takes.
        panel_tasks: groups the panels are divided into.
    """

    rows: int
    panel: int
    unroll: int
    block: int
    panel_tasks: int


@dataclass(frozen=True)
class Strassen(MatrixProduct):
    """epilogue(x @ w) by one level of Strassen's algorithm: an eighth of the multiplications less, and somewhat more rounding.

    ::

        x: f32 (M, K)   w: f32 (7, panels, K / 2, panel) combined and packed   bias: f32 (N,)   residual: f32 (M, N)   ==>   f32 (M, N)

    Both sides are cut into quarters. The sums of quarters of w are made when compiling. A task takes a block of rows of the upper
    half, the same block of the lower half, and a group of panels; it makes the sums of quarters of x for its rows, then per tile of
    results the seven products, each added to the quarters of the result it belongs to in the first-level cache. Of an odd number of
    rows the middle one is in both halves, and written by the upper one.

    The error is bounded by the norms of x and w rather than element by element: small numbers beside large ones lose digits.
    Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 23.2.2.

    Attributes:
        m, k, n: sizes of the product; k and n even, m >= 2 * tiling.rows, n >= 2 * tiling.panel.
        tiling: register tile and tasks.
        epilogue: what follows.
    """

    m: int
    k: int
    n: int
    tiling: StrassenTiling
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def half_rows(self) -> int:
        """Rows of either half; of an odd number the middle row is in both."""
        return -(-self.m // 2)

    @property
    def panels(self) -> int:
        """Groups of columns of one half of w."""
        return -(-(self.n // 2) // self.tiling.panel)

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w, bias and residual, as far as there are any."""
        return ((self.m, self.k), (len(STEPS), self.panels, self.k // 2, self.tiling.panel), *self.epilogue.operands(self.result))

    @property
    def num_tasks(self) -> int:
        """Blocks of rows times groups of panels."""
        return -(-self.half_rows // self.tiling.block) * self.tiling.panel_tasks


def strassen_tiling(m: int, k: int, n: int, lanes: int, cores: int) -> StrassenTiling | None:
    """The tiling taken without a search; None where the sizes cannot be halved, or are too small for sums to pay.

    Args:
        m: rows.
        k: terms of a sum.
        n: columns.
        lanes: elements of a vector register.
        cores: threads that share the tasks.
    """
    half_rows, half_columns = -(-m // 2), n // 2
    if k % 2 or n % 2 or k // 2 < 4 * lanes or half_columns < lanes or m < 16:
        return None
    held = [(r, v) for r, v in FORMS if r <= half_rows and v * lanes <= half_columns and r * v + v < REGISTERS[lanes] and r * v >= 8]
    if not held:
        return None

    def padding(form: tuple[int, int]) -> float:
        rows, panel = form[0], form[1] * lanes
        return -(-half_rows // rows) * rows * -(-half_columns // panel) * panel / (half_rows * half_columns)

    rows, vectors = min(held, key=lambda form: (round(padding(form), 2), held.index(form)))
    most = max(rows, SCRATCH_BYTES // (NUM_SUMS * (k // 2) * 4))
    blocks = -(-half_rows // most)
    share = -(-half_rows // blocks)
    block = min(half_rows, -(-share // rows) * rows)
    panels = -(-half_columns // (vectors * lanes))
    groups = min(panels, max(1, -(-4 * cores // -(-half_rows // block))))
    return StrassenTiling(rows, vectors * lanes, 4, block, groups)
