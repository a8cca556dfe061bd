"""The register tile of kernels on narrow numbers: one instruction multiplies the words of two registers and adds all their terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.script import builder as build

from kopt.targets.kernels.emit import Buffer, Expression, Vectors, function, index
from kopt.targets.kernels.narrow import Formats, Narrow
from kopt.targets.kernels.tile import RegisterTile

TYPES = {"f32": "float32", "bf16": "uint16", "u8": "uint8", "i8": "int8"}
"""Elements of buffers: TVM 0.27 crashes on vectors of bfloat16, so that they are handled as the integers of their bits."""

_LIMITS = {"u8": (0.0, 255.0), "i8": (-128.0, 127.0)}
_TO_UNSIGNED = -0x7F7F7F80  # the highest bit of each of four bytes, as an i32
_BF16 = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @kopt_dot_bf16(<16 x float> %sums, <16 x i32> %left, <16 x i32> %right) {
  %x = bitcast <16 x i32> %left to <32 x bfloat>
  %w = bitcast <16 x i32> %right to <32 x bfloat>
  %y = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sums, <32 x bfloat> %x, <32 x bfloat> %w)
  ret <16 x float> %y
}
define <16 x i16> @kopt_round_bf16(<16 x float> %x) {
  %y = fptrunc <16 x float> %x to <16 x bfloat>
  %bits = bitcast <16 x bfloat> %y to <16 x i16>
  ret <16 x i16> %bits
}
"""


@contextmanager
def narrow_function(name: str, kernel: Narrow, shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[list[Buffer], Buffer, Expression]]:
    """The frame of a kernel on narrow numbers; ``shapes`` of its operands count x and weights in words, which are i32."""
    formats = kernel.formats
    others = ("int32", "float32", "float32", "int32") if formats.is_integer else ("float32",)
    added = [TYPES[formats.residual]] if kernel.epilogue.residual else []
    types = ["int32", "int32", *others[: len(shapes) - 2 - len(added)], *added, TYPES[formats.result]]
    with ExitStack() as stack:
        frame = stack.enter_context(function(name, shapes, kernel.result, types))
        if not formats.is_integer:
            stack.enter_context(build.attr(index(0), "pragma_import_llvm", tvm.ir.StringImm(_BF16)))
        yield frame


class NarrowTile(RegisterTile):
    """Accumulators of i32 or f32, and what happens to them.

    Args:
        vectors: the register width.
        rows: of the tile.
        columns: of the tile.
        kernel: its formats and epilogue.
        arrays: the kernel's operands, as ``narrow_function`` gives them.
    """

    def __init__(self, vectors: Vectors, rows: int, columns: int, kernel: Narrow, arrays: Sequence[Buffer]) -> None:
        super().__init__(vectors, rows, columns, "int32" if kernel.formats.is_integer else "float32")
        self.kernel = kernel
        self.arrays = arrays

    def begin(self, column: Expression) -> None:
        """Every row begins with what the sums of its columns start from; ``column`` is the first one."""
        first: Callable[[int], Expression] | None = lambda j: self.vectors.load(self.arrays[2], column + j)  # noqa: E731
        self.start(first if self.kernel.formats.is_integer or self.kernel.epilogue.bias else None)

    def multiply(self, left: Callable[[int], Expression], right: Callable[[int], Expression]) -> None:
        """sums[i, j..] += terms of left(i) * terms of right(j): words of the left operand, vectors of words of the right one."""
        for i, j in self.places():
            where = self._at(i, j)
            word = left(i) if self.kernel.formats.x != "i8" else left(i) ^ index(_TO_UNSIGNED)
            self.vectors.store(self._sums, self._dot(self.vectors.load(self._sums, where), self.vectors.broadcast(word), right(j)), where)

    def _dot(self, sums: Expression, left: Expression, right: Expression) -> Expression:
        lanes = self.vectors.lanes
        if not self.kernel.formats.is_integer:
            return tirx.call_pure_extern(f"float32x{lanes}", "kopt_dot_bf16", sums, left, right)
        narrow = (tirx.reinterpret(f"uint8x{lanes * 4}", left), tirx.reinterpret(f"int8x{lanes * 4}", right))
        return tirx.call_llvm_pure_intrin(f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{lanes * 32}", sums, *narrow)

    def end(self, column: Expression, y: Buffer, at: Callable[[int, int], tuple[Expression, ...]]) -> None:
        """Apply what follows the sums and write to ``y[at(i, j)]``.

        Args:
            column: of the tile's first result.
            y: the result.
            at: where the vector at (row, column) of the tile lies in the result, and in the residual.
        """
        finish_narrow(self.kernel, self.vectors, self.arrays, self._finished(column), y, at)

    def _finished(self, column: Expression) -> Iterator[tuple[int, int, Expression]]:
        for i, j in self.places():
            value = self.vectors.load(self._sums, self._at(i, j))
            if self.kernel.formats.is_integer:
                columns = self.arrays[3]
                scale, bias = (self.vectors.load(columns, index(k), column + j) for k in (0, 1))
                value = tirx.Cast(f"float32x{self.vectors.lanes}", value) * scale + bias
            yield i, j, value


def finish_narrow(
    kernel: Narrow,
    vectors: Vectors,
    arrays: Sequence[Buffer],
    values: Iterator[tuple[int, int, Expression]],
    y: Buffer,
    at: Callable[[int, int], tuple[Expression, ...]],
) -> None:
    """Add the residual, apply the activation, and write in the kernel's format.

    Args:
        kernel: its formats and epilogue.
        vectors: the register width.
        arrays: the kernel's operands, as ``narrow_function`` gives them.
        values: (row, column, f32 vector) of every vector of a tile.
        y: the result.
        at: where the vector at (row, column) of the tile lies in the result, and in the residual.
    """
    numbers = [arrays[4][index(k)] for k in range(4)] if kernel.formats.is_integer else []
    epilogue = kernel.epilogue
    for i, j, summed in values:
        added = _real(vectors, kernel.formats, vectors.load(arrays[-1], *at(i, j)), numbers) if epilogue.residual else None
        value = vectors.activation(epilogue.activation, summed if added is None else summed + added, epilogue.low, epilogue.high)
        vectors.store(y, _stored(vectors, kernel.formats, value, numbers), *at(i, j))


def _real(vectors: Vectors, formats: Formats, value: Expression, numbers: Sequence[Expression]) -> Expression:
    """A vector of the residual in f32."""
    if formats.residual == "f32":
        return value
    wide = tirx.Cast(f"int32x{vectors.lanes}", value)
    if formats.residual == "bf16":
        return tirx.reinterpret(f"float32x{vectors.lanes}", wide << vectors.broadcast(index(16)))
    scale, zero = (vectors.broadcast(number) for number in numbers[2:])
    return (tirx.Cast(f"float32x{vectors.lanes}", wide) - zero) * scale


def _stored(vectors: Vectors, formats: Formats, value: Expression, numbers: Sequence[Expression]) -> Any:
    """A vector of f32 as the result holds it."""
    if formats.result == "f32":
        return value
    if formats.result == "bf16":
        return tirx.call_pure_extern(f"uint16x{vectors.lanes}", "kopt_round_bf16", value)
    scale, zero = (vectors.broadcast(number) for number in numbers[:2])
    low, high = _LIMITS[formats.result]
    whole = vectors.at_most(vectors.at_least(tirx.nearbyint(value * scale) + zero, low), high)
    return tirx.Cast(f"{TYPES[formats.result]}x{vectors.lanes}", tirx.Cast(f"int32x{vectors.lanes}", whole))
