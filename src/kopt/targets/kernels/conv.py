"""Convolutions on channels-last images with packed weights, and what follows them."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Conv:
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
    def panels(self) -> int:
        """Groups of output channels the weights are packed in."""
        return -(-self.outputs // self.tiling.panel)

    @property
    def depth(self) -> int:
        """Terms of a sum."""
        return self.image.kernel[0] * self.image.kernel[1] * self.image.channels

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w, bias and residual, as far as there are any."""
        shapes = [_input(self.image), (self.panels, self.depth, self.tiling.panel)]
        shapes += [(self.outputs,)] if self.epilogue.bias else []
        shapes += [self.result] if self.epilogue.residual else []
        return tuple(shapes)

    @property
    def result(self) -> tuple[int, ...]:
        """(N, OH, OW, M)."""
        return (self.image.batch, self.image.out_height, self.image.out_width, self.outputs)

    @property
    def row_tasks(self) -> int:
        """Blocks of rows of an image."""
        return -(-self.image.out_height // self.tiling.rows)

    @property
    def multiplies(self) -> int:
        """Multiplications."""
        return prod(self.result) * self.depth

    @property
    def num_tasks(self) -> int:
        """Images times blocks of rows times groups of panels."""
        return self.image.batch * self.row_tasks * self.tiling.panel_tasks


@dataclass(frozen=True)
class Depthwise:
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
    def panels(self) -> int:
        """Groups of channels."""
        return -(-self.image.channels // self.tiling.panel)

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w, bias and residual, as far as there are any."""
        channels = self.image.channels
        shapes: list[tuple[int, ...]] = [_input(self.image), (self.image.kernel[0] * self.image.kernel[1], channels)]
        shapes += [(channels,)] if self.epilogue.bias else []
        shapes += [self.result] if self.epilogue.residual else []
        return tuple(shapes)

    @property
    def result(self) -> tuple[int, ...]:
        """(N, OH, OW, C)."""
        return (self.image.batch, self.image.out_height, self.image.out_width, self.image.channels)

    @property
    def row_tasks(self) -> int:
        """Blocks of rows of an image."""
        return -(-self.image.out_height // self.tiling.rows)

    @property
    def multiplies(self) -> int:
        """Multiplications."""
        return prod(self.result) * self.image.kernel[0] * self.image.kernel[1]

    @property
    def num_tasks(self) -> int:
        """Images times blocks of rows times groups of channels."""
        return self.image.batch * self.row_tasks * self.tiling.panel_tasks


def _input(image: Image) -> tuple[int, ...]:
    return (image.batch, image.height, image.width, image.channels)
