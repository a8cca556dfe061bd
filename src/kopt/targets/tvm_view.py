"""Strided views: how an operator that only moves elements is read in place, and how axes are joined before loops are written.

All numbers count elements. A view says where element ``(i, j, ...)`` of a tensor lies in a buffer:
``offset + i * strides[0] + j * strides[1] + ...``. A stride of 0 repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class View:
    """A tensor inside a buffer.

    Attributes:
        shape: of the tensor.
        strides: elements between neighbours along each axis; may be 0 or negative.
        offset: of the first element.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @classmethod
    def whole(cls, shape: Sequence[int]) -> View:
        """A contiguous tensor that fills its buffer."""
        strides, step = [0] * len(shape), 1
        for axis in reversed(range(len(shape))):
            strides[axis] = step
            step *= shape[axis]
        return cls(tuple(shape), tuple(strides))

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements follow one another in order."""
        whole = View.whole(self.shape).strides
        return all(have == want or dim == 1 for have, want, dim in zip(self.strides, whole, self.shape, strict=True))

    def permuted(self, order: Sequence[int]) -> View:
        """Axes in another order."""
        return View(tuple(self.shape[k] for k in order), tuple(self.strides[k] for k in order), self.offset)

    def sliced(self, axis: int, start: int, size: int, step: int = 1) -> View:
        """``size`` elements along an axis from ``start`` on."""
        shape, strides = list(self.shape), list(self.strides)
        shape[axis], strides[axis] = size, strides[axis] * step
        return View(tuple(shape), tuple(strides), self.offset + start * self.strides[axis])

    def expanded(self, shape: Sequence[int]) -> View:
        """Repeated to ``shape`` as numpy broadcasts."""
        missing = len(shape) - len(self.shape)
        own = ((1, 0),) * missing + tuple(zip(self.shape, self.strides, strict=True))
        strides = tuple(stride if dim == want else 0 for (dim, stride), want in zip(own, shape, strict=True))
        return View(tuple(shape), strides, self.offset)

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """The same elements under another shape, None where no strides say that."""
        if 0 in self.shape:
            return View.whole(shape)
        groups = joined(self.shape, (self.strides,))
        strides: list[int] = [0] * len(shape)
        rest, step = 1, 0
        for axis in reversed(range(len(shape))):
            dim = shape[axis]
            if dim == 1:
                continue
            if rest == 1:
                size, (step,) = groups.pop()
                rest = size
            if rest % dim:
                return None
            strides[axis] = step
            rest, step = rest // dim, step * dim
        return View(tuple(shape), tuple(strides), self.offset)


def joined(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, tuple[int, ...]]]:
    """Axes joined wherever every operand runs through both as through one: (size, stride of each operand) per remaining axis.

    Args:
        shape: sizes of the axes; axes of size 1 are dropped.
        strides: for each operand its stride along every axis.
    """
    result: list[tuple[int, tuple[int, ...]]] = []
    for axis, dim in enumerate(shape):
        if dim == 1:
            continue
        own = tuple(operand[axis] for operand in strides)
        if result and all(outer == inner * dim for outer, inner in zip(result[-1][1], own, strict=True)):
            result[-1] = (result[-1][0] * dim, own)
        else:
            result.append((dim, own))
    return result
