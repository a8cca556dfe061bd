"""3x3 convolutions with stride 1 by Winograd's minimal filtering, and what follows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.kernel import Epilogue

TILE = 2
"""Output rows and columns of a Winograd tile."""
POSITIONS = (TILE + 2) ** 2
"""Products that replace a tile's sums."""


@dataclass(frozen=True)
class WinogradTiling:
    """Tiles and tasks of a Winograd convolution.

    Attributes:
        tiles: Winograd tiles of a register tile.
        panel: output channels of a register tile.
        unroll: input channels written out.
        block: Winograd tiles that a task transforms together.
        panel_tasks: groups the panels are divided into.
    """

    tiles: int
    panel: int
    unroll: int
    block: int
    panel_tasks: int


@dataclass(frozen=True)
class Winograd:
    """epilogue(conv(x, w)) with F(2x2, 3x3): 16 products of transformed tiles in place of 36 multiplications a result.

    ::

        x: f32 (N, H, W, C)   w: f32 (16, panels, C, panel) transformed and packed   bias: f32 (M,)
        residual: f32 (N, OH, OW, M)   ==>   f32 (N, OH, OW, M)

    A task takes a block of tiles, in the order of rows of tiles, and a group of panels. It transforms the tiles' input once,
    then multiplies and transforms back panel by panel; both intermediate results stay in the second-level cache.
    Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.

    Attributes:
        image: sizes; kernel (3, 3), strides and dilations 1.
        outputs: channels of the result, >= tiling.panel.
        tiling: register tile and tasks.
        epilogue: what follows.
    """

    image: Image
    outputs: int
    tiling: WinogradTiling
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def panels(self) -> int:
        """Groups of output channels the weights are packed in."""
        return -(-self.outputs // self.tiling.panel)

    @property
    def tile_rows(self) -> int:
        """Rows of tiles of an image."""
        return -(-self.image.out_height // TILE)

    @property
    def tile_columns(self) -> int:
        """Tiles of a row."""
        return -(-self.image.out_width // TILE)

    @property
    def num_tiles(self) -> int:
        """Tiles of all images."""
        return self.image.batch * self.tile_rows * self.tile_columns

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w, bias and residual, as far as there are any."""
        weights = (POSITIONS, self.panels, self.image.channels, self.tiling.panel)
        return (self.image.input, weights, *self.epilogue.operands(self.result))

    @property
    def result(self) -> tuple[int, ...]:
        """(N, OH, OW, M)."""
        return self.image.output(self.outputs)

    @property
    def multiplies(self) -> int:
        """Multiplications that the direct form would take."""
        return prod(self.result) * 9 * self.image.channels

    @property
    def num_tasks(self) -> int:
        """Blocks of tiles times groups of panels."""
        return -(-self.num_tiles // self.tiling.block) * self.tiling.panel_tasks
