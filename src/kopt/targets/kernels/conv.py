"""Convolutions on channels-last images with packed weights, and what follows them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import prod

from kopt.targets.kernels.kernel import Epilogue


@dataclass(frozen=True)
class Image:
    """Sizes of a convolution over two axes.

    Attributes:
        batch: images.
        height: input rows.
        width: input columns.
        channels: of the input.
        out_height: output rows.
        out_width: output columns.
        kernel: (rows, columns).
        strides: (rows, columns).
        dilations: (rows, columns).
        pads: zeros (above, left); below and right as many as the output needs.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)

    @property
    def input(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (self.batch, self.height, self.width, self.channels)

    def output(self, channels: int) -> tuple[int, ...]:
        """(N, OH, OW, channels)."""
        return (self.batch, self.out_height, self.out_width, channels)

    @property
    def reach(self) -> tuple[int, int]:
        """Input rows and columns that one output needs."""
        (kh, kw), (dh, dw) = self.kernel, self.dilations
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    @property
    def needed_width(self) -> int:
        """Columns of a padded row that the outputs read."""
        return (self.out_width - 1) * self.strides[1] + self.reach[1]

    def needed_rows(self, rows: int) -> int:
        """Padded rows that ``rows`` output rows read."""
        return (rows - 1) * self.strides[0] + self.reach[0]

    @property
    def is_padded(self) -> bool:
        """Whether any output reads beyond the image."""
        top, left = self.pads
        return bool(top or left) or self.needed_rows(self.out_height) > self.height or self.needed_width > self.width


@dataclass(frozen=True)
class ConvTiling:
    """Tiles and tasks of a convolution.

    Attributes:
        pixels: of a register tile, along an output row.
        panel: output channels of a register tile.
        unroll: input channels written out.
        rows: output rows of a task.
        panel_tasks: groups the panels are divided into.
    """

    pixels: int
    panel: int
    unroll: int
    rows: int
    panel_tasks: int


class Sliding(ABC):
    """What kernels that slide over an image have in common: a task takes a block of rows and a group of panels."""

    image: Image
    tiling: ConvTiling
    epilogue: Epilogue

    @property
    def panels(self) -> int:
        """Groups of output channels."""
        return -(-self.result[-1] // self.tiling.panel)

    @property
    @abstractmethod
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w, bias and residual, as far as there are any."""

    @property
    @abstractmethod
    def result(self) -> tuple[int, ...]:
        """(N, OH, OW, channels)."""

    @property
    def row_tasks(self) -> int:
        """Blocks of rows of an image."""
        return -(-self.image.out_height // self.tiling.rows)

    @property
    def num_tasks(self) -> int:
        """Images times blocks of rows times groups of panels."""
        return self.image.batch * self.row_tasks * self.tiling.panel_tasks


@dataclass(frozen=True)
class Conv(Sliding):
    """epilogue(conv(x, w)), all channels with all.

    ::

        x: f32 (N, H, W, C)   w: f32 (panels, kh * kw * C, panel) packed   bias: f32 (M,)   residual: f32 (N, OH, OW, M)
        ==>   f32 (N, OH, OW, M)

    A task takes rows of one image and a group of panels. It copies the padded rows it needs next to each other, so that the
    sums need no test for the border. A tile of ``pixels`` x ``panel`` results stays in registers while the sum runs.

    Attributes:
        image: sizes; out_width >= tiling.pixels, out_height >= tiling.rows.
        outputs: channels of the result, >= tiling.panel.
        tiling: register tile and tasks.
        epilogue: what follows.
    """

    image: Image
    outputs: int
    tiling: ConvTiling
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def depth(self) -> int:
        """Terms of a sum."""
        return self.image.kernel[0] * self.image.kernel[1] * self.image.channels

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w, bias and residual, as far as there are any."""
        return (self.image.input, (self.panels, self.depth, self.tiling.panel), *self.epilogue.operands(self.result))

    @property
    def result(self) -> tuple[int, ...]:
        """(N, OH, OW, M)."""
        return self.image.output(self.outputs)

    @property
    def multiplies(self) -> int:
        """Multiplications."""
        return prod(self.result) * self.depth


@dataclass(frozen=True)
class Depthwise(Sliding):
    """epilogue(conv(x, w)), every channel by itself.

    ::

        x: f32 (N, H, W, C)   w: f32 (kh * kw, C)   bias: f32 (C,)   residual: f32 (N, OH, OW, C)   ==>   f32 (N, OH, OW, C)

    Attributes:
        image: sizes.
        tiling: ``pixels`` x ``panel`` channels stay in registers; ``panel_tasks`` groups of channels.
        epilogue: what follows.
    """

    image: Image
    tiling: ConvTiling
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w, bias and residual, as far as there are any."""
        taps = self.image.kernel[0] * self.image.kernel[1]
        return (self.image.input, (taps, self.image.channels), *self.epilogue.operands(self.result))

    @property
    def result(self) -> tuple[int, ...]:
        """(N, OH, OW, C)."""
        return self.image.output(self.image.channels)

    @property
    def multiplies(self) -> int:
        """Multiplications."""
        return prod(self.result) * self.image.kernel[0] * self.image.kernel[1]
