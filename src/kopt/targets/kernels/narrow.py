"""What kernels on narrow numbers share: several terms of a sum lie in one 32-bit word, and are multiplied by one instruction.

The instruction multiplies and adds the four bytes (u8 with i8, into i32), or the two bf16 (into f32), of every word of a
register: four, or two, times the arithmetic of f32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from kopt.hardware import Target
from kopt.targets.kernels.kernel import Epilogue
from kopt.targets.kernels.product import PanelProduct
from kopt.targets.kernels.tiling import ProductTiling

NUMBERS = 4
"""1 / y_scale, y_zero_point, residual_scale, residual_zero_point: what an integer kernel reads besides the scales of columns."""

_PER_WORD = {"u8": 4, "i8": 4, "bf16": 2}


@dataclass(frozen=True)
class Formats:
    """Element types of what a kernel reads and writes.

    Attributes:
        x: "u8", "i8" or "bf16"; weights are i8 or bf16.
        result: "f32"; or "u8" or "i8" with integers, "bf16" with bf16.
        residual: "f32", or what ``result`` may be, whatever it is; "" where there is none.
    """

    x: str
    result: str = "f32"
    residual: str = ""

    @property
    def per_word(self) -> int:
        """Terms of a sum in a 32-bit word."""
        return _PER_WORD[self.x]

    @property
    def is_integer(self) -> bool:
        """Whether sums are i32."""
        return self.x != "bf16"


def instruction_of(x: str) -> str:
    """The processor feature that kernels on such numbers need."""
    return "avx512_bf16" if x == "bf16" else "avx512_vnni"


def has_instruction(x: str, target: Target) -> bool:
    """Whether the target multiplies such numbers in one instruction."""
    return {"avx512f", instruction_of(x)} <= target.required_features


def words(count: int, formats: Formats) -> int:
    """32-bit words that hold ``count`` numbers."""
    return -(-count // formats.per_word)


class Narrow(ABC):
    """A kernel on narrow numbers. Its operands are x, the packed weights, what ``others`` says, and the residual."""

    formats: Formats
    epilogue: Epilogue

    @property
    @abstractmethod
    def result(self) -> tuple[int, ...]:
        """Shape of what it writes."""

    @property
    def result_type(self) -> str:
        """Element type of what it writes."""
        return self.formats.result

    @property
    def others(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what is applied to the sums.

        ::

            integers:  what sums start from: i32 (N,)   scales and biases: f32 (2, N)   numbers: f32 (NUMBERS,)
            bf16:      bias: f32 (N,), if there is any
        """
        columns = self.result[-1]
        if self.formats.is_integer:
            return ((columns,), (2, columns), (NUMBERS,))
        return ((columns,),) if self.epilogue.bias else ()

    @property
    def residuals(self) -> tuple[tuple[int, ...], ...]:
        """The shape of the residual, if there is one."""
        return (self.result,) if self.epilogue.residual else ()


@dataclass(frozen=True)
class NarrowProduct(PanelProduct, Narrow):
    """epilogue(x @ w) on narrow numbers.

    ::

        x: (M, K)   w: (panels, words, panel, per word) packed   ==>   (M, N)

    Tiles and tasks are those of ``Product``, with words in the place of terms.

    Attributes:
        m, k, n: sizes; k is a multiple of the numbers in a word, n >= tiling.panel, m >= tiling.rows.
        tiling: register tile and tasks.
        formats: element types.
        epilogue: what follows; an integer kernel always has a bias.
    """

    m: int
    k: int
    n: int
    tiling: ProductTiling
    formats: Formats
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def words(self) -> int:
        """Words of a sum."""
        return words(self.k, self.formats)

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of x, w and what follows."""
        packed = (self.panels, self.words, self.tiling.panel, self.formats.per_word)
        return ((self.m, self.k), packed, *self.others, *self.residuals)


@dataclass(frozen=True)
class Int8Product(NarrowProduct):
    """A product of u8 or i8 with i8, in i32."""


@dataclass(frozen=True)
class Bf16Product(NarrowProduct):
    """A product of bf16, in f32."""
