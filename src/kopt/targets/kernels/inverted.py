"""Inverted residual blocks on channels-last images: a wide image that is never written to memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.kernel import Epilogue


@dataclass(frozen=True)
class InvertedTiling:
    """Tiles and tasks of an inverted residual block.

    Attributes:
        expand: (pixels, channels) of a register tile of the first product.
        slide: (pixels, channels) of a register tile of the depthwise convolution.
        project: (pixels, channels) of a register tile of the last product.
        unroll: steps of a product's sum written out.
        rows: output rows that go through all three layers together.
        block: output rows of a task, a multiple of ``rows``.
    """

    expand: tuple[int, int]
    slide: tuple[int, int]
    project: tuple[int, int]
    unroll: int
    rows: int
    block: int


@dataclass(frozen=True)
class InvertedResidual:
    """outer(inner(depthwise(inner(x @ w + b))) @ w' + b'), or without the first product.

    ::

        x: f32 (N, H, W, C)   w: f32 (panels, C, panel) packed, b: f32 (E,), both only where the block expands
        filters: f32 (kh * kw, E)   b: f32 (E,)   w': f32 (panels, E, panel) packed   b': f32 (M,)   ==>   f32 (N, OH, OW, M)

    A task takes a block of output rows of one image. It goes down the block a few rows at a time: the rows of the wide image
    that they need and that are not there yet are computed into a ring of rows, the depthwise convolution reads them from
    there, and the last product reads its result; all of it stays in the second-level cache. Rows above a task's block
    are computed again by it: the smaller the blocks, the more.
    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.

    Attributes:
        image: sizes of the depthwise convolution, with the channels of the wide image; dilations 1.
        inputs: channels of x.
        outputs: channels of the result.
        expands: whether there is a first product; without one inputs == image.channels.
        tiling: register tiles and tasks.
        inner: what follows the first product and the depthwise convolution: a bias and an activation.
        outer: what follows the last product; the residual is x.
    """

    image: Image
    inputs: int
    outputs: int
    expands: bool
    tiling: InvertedTiling
    inner: Epilogue = field(default_factory=Epilogue)
    outer: Epilogue = field(default_factory=Epilogue)

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, of weights and bias of the three layers."""
        wide, (kh, kw) = self.image.channels, self.image.kernel
        panel, last = self.tiling.expand[1], self.tiling.project[1]
        first = ((-(-wide // panel), self.inputs, panel), (wide,)) if self.expands else ()
        rest = ((kh * kw, wide), (wide,), (-(-self.outputs // last), wide, last), (self.outputs,))
        return ((self.image.batch, self.image.height, self.image.width, self.inputs), *first, *rest)

    @property
    def result(self) -> tuple[int, ...]:
        """(N, OH, OW, M)."""
        return self.image.output(self.outputs)

    @property
    def multiplies(self) -> int:
        """Multiplications of the three layers."""
        image = self.image
        expand = image.height * image.width * self.inputs if self.expands else 0
        rest = image.out_height * image.out_width * (image.kernel[0] * image.kernel[1] + self.outputs)
        return image.batch * image.channels * (expand + rest)

    @property
    def blocks(self) -> int:
        """Tasks of an image."""
        return -(-self.image.out_height // self.tiling.block)

    @property
    def num_tasks(self) -> int:
        """Images times blocks of rows."""
        return self.image.batch * self.blocks

    @property
    def ring(self) -> int:
        """Rows of the wide image that are kept: a power of two, so that a row's place is found by a mask."""
        return 1 << (self.image.needed_rows(self.tiling.rows) - 1).bit_length()
