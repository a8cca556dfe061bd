"""The register tile that products and convolutions share: accumulators, the multiplication, and what follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as build

from kopt.targets.kernels.emit import Expression, Vectors, index
from kopt.targets.kernels.kernel import Epilogue

Loader = Callable[..., Expression]


class RegisterTile:
    """``rows`` x ``columns`` accumulators, meant to stay in registers; every loop over them is written out.

    Args:
        vectors: the register width; ``columns`` is a multiple of it.
        kind: element type of the accumulators.
    """

    def __init__(self, vectors: Vectors, rows: int, columns: int, kind: str = "float32") -> None:
        self.vectors = vectors
        self.rows = rows
        self.columns = columns
        self._sums = build.alloc_buffer((rows * columns,), kind, scope="local")

    def places(self) -> Iterator[tuple[int, int]]:
        """(row, first column) of every vector."""
        return ((i, j) for i in range(self.rows) for j in range(0, self.columns, self.vectors.lanes))

    def _at(self, i: int, j: int) -> Expression:
        return index(i * self.columns + j)

    def start(self, bias: Callable[[int], Expression] | None) -> None:
        """Every row begins with the bias of its columns, or with zero."""
        for i, j in self.places():
            self.vectors.store(self._sums, self.vectors.constant(0.0) if bias is None else bias(j), self._at(i, j))

    def multiply(self, left: Callable[[int], Expression], right: Callable[[int], Expression]) -> None:
        """sums[i, j..] += left(i) * right(j): numbers of the left operand, vectors of the right one."""
        for i, j in self.places():
            where = self._at(i, j)
            product = self.vectors.broadcast(left(i)) * right(j)
            self.vectors.store(self._sums, self.vectors.load(self._sums, where) + product, where)

    def multiply_each(self, left: Callable[[int, int], Expression], right: Callable[[int], Expression]) -> None:
        """sums[i, j..] += left(i, j) * right(j): vectors of both operands."""
        for i, j in self.places():
            where = self._at(i, j)
            self.vectors.store(self._sums, self.vectors.load(self._sums, where) + left(i, j) * right(j), where)

    def finish(self, epilogue: Epilogue | None, residual: Loader | None, store: Callable[[int, int, Expression], Any]) -> None:
        """Add ``residual(i, j)``, apply the activation, and hand each vector to ``store(i, j, value)``."""
        for i, j in self.places():
            value = self.vectors.load(self._sums, self._at(i, j))
            if residual is not None:
                value = value + residual(i, j)
            if epilogue is not None:
                value = self.vectors.activation(epilogue.activation, value, epilogue.low, epilogue.high)
            store(i, j, value)


def part(task: Expression, inner: Expression, size: int, count: int) -> Expression:
    """Index ``task * size + inner`` of ``count`` things; tasks that reach beyond the last one do it again."""
    return tirx.min(task * size + inner, index(count - 1))  # even if size divides count, there may be tasks too many


def first_of(tile: Expression, step: int, size: int) -> Expression:
    """Where a tile of ``step`` begins; the last one early enough to end within ``size``."""
    return tile * step if size % step == 0 else tirx.min(tile * step, index(size - step))


def unrolled(count: int, times: int, step: Callable[[Expression], None]) -> None:
    """``step`` for every index below ``count``, in a loop of ``times`` steps and the rest written out."""
    times = min(times, count)
    with build.serial(count // times) as outer:
        for inner in range(times):
            step(outer * times + inner)
    for last in range(count - count % times, count):
        step(index(last))
