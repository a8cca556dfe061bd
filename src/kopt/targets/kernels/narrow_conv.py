"""Convolutions on narrow numbers: those of f32, with words of channels in the place of channels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

from kopt.targets.kernels.conv import ConvTiling, Image, Sliding
from kopt.targets.kernels.kernel import Epilogue
from kopt.targets.kernels.narrow import Formats, Narrow, words


@dataclass(frozen=True)
class NarrowConv(Narrow, Sliding):
    """epilogue(conv(x, w)) on narrow numbers, all channels with all.

    ::

        x: (N, H, W, C)   w: (panels, kh * kw * words, panel, per word) packed   ==>   (N, OH, OW, M)

    Integer kernels take one operand more behind ``others``: what borders hold, i32 (1,), a word of four zero points.

    Attributes:
        image: sizes; its channels are a multiple of the numbers in a word.
        outputs: channels of the result, >= tiling.panel.
        tiling: register tile and tasks.
        formats: element types.
        epilogue: what follows; an integer kernel always has a bias.
    """

    image: Image
    outputs: int
    tiling: ConvTiling
    formats: Formats
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def in_words(self) -> Image:
        """The image with words of channels in the place of channels."""
        return replace(self.image, channels=words(self.image.channels, self.formats))

    @property
    def depth(self) -> int:
        """Words of a sum."""
        return self.image.kernel[0] * self.image.kernel[1] * self.in_words.channels

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w and what follows."""
        packed = (self.panels, self.depth, self.tiling.panel, self.formats.per_word)
        borders = ((1,),) if self.formats.is_integer else ()
        return (self.image.input, packed, *self.others, *borders, *self.residuals)

    @property
    def result(self) -> tuple[int, ...]:
        """(N, OH, OW, M)."""
        return self.image.output(self.outputs)

    @property
    def multiplies(self) -> int:
        """Multiplications."""
        return prod(self.result) * self.depth * self.formats.per_word


@dataclass(frozen=True)
class Int8Conv(NarrowConv):
    """A convolution of u8 or i8 with i8, in i32."""


@dataclass(frozen=True)
class Bf16Conv(NarrowConv):
    """A convolution of bf16, in f32."""
