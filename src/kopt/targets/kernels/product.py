"""A product of a matrix with packed weights, and what follows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from kopt.targets.kernels.kernel import Epilogue
from kopt.targets.kernels.tiling import ProductTiling


class MatrixProduct:
    """What all kernels that multiply two matrices have in common."""

    m: int
    k: int
    n: int

    @property
    def result(self) -> tuple[int, ...]:
        """(M, N)."""
        return (self.m, self.n)

    @property
    def multiplies(self) -> int:
        """Multiplications that the plain product takes."""
        return self.m * self.k * self.n


class PanelProduct(MatrixProduct):
    """Products whose tasks are chunks of rows times groups of panels of packed columns."""

    tiling: ProductTiling

    @property
    def panels(self) -> int:
        """Groups of columns the weights are packed in."""
        return -(-self.n // self.tiling.panel)

    @property
    def num_tasks(self) -> int:
        """Chunks of rows times groups of panels."""
        return self.tiling.row_tasks * self.tiling.panel_tasks


@dataclass(frozen=True)
class Product(PanelProduct):
    """epilogue(x @ w).

    ::

        x: f32 (M, K)   w: f32 (panels, K, panel) packed   bias: f32 (N,)   residual: f32 (M, N)   ==>   f32 (M, N)

    A task takes a chunk of rows and a group of panels. Inside, a tile of ``rows`` x ``panel`` results stays in registers
    while K runs once. The last tile of either axis begins early enough to end with the axis: it overlaps the one before,
    and both write the same numbers.

    Attributes:
        m, k, n: sizes of the product; n >= tiling.panel, m >= tiling.rows.
        tiling: register tile and tasks.
        epilogue: what follows.
    """

    m: int
    k: int
    n: int
    tiling: ProductTiling
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w, bias and residual, as far as there are any."""
        return ((self.m, self.k), (self.panels, self.k, self.tiling.panel), *self.epilogue.operands(self.result))
