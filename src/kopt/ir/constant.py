"""Constants of a graph: arrays that may still lie in a file, read when first needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property

import numpy as np

from kopt.ir.types import DType, TensorType


class Constant:
    """An immutable tensor of known type whose bytes are read when first asked for.

    Identity matters: two graphs that share a Constant share its memory and its digest.
    """

    def __init__(self, type_: TensorType, load: Callable[[], np.ndarray]) -> None:
        self.type = type_
        self._load = load

    @classmethod
    def of(cls, array: np.typing.ArrayLike) -> Constant:
        """A constant holding ``array``; the array must not be changed afterwards."""
        held = np.asarray(array)
        return cls(TensorType(DType.from_numpy(held.dtype), held.shape), lambda: held)

    def array(self) -> np.ndarray:
        """The values, shape and element type as in ``type``; treat them as read-only."""
        return self._load()

    @property
    def nbytes(self) -> int:
        """Size of the values in memory, without reading them."""
        return self.type.size * self.type.dtype.numpy.itemsize

    @cached_property
    def digest(self) -> str:
        """sha256 over element type, shape and bytes."""
        array = self.array()
        content = hashlib.sha256(f"{self.type};".encode())
        if self.type.dtype is DType.STRING:
            content.update(repr([str(item) for item in array.ravel().tolist()]).encode())
        else:
            content.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.size else b"")
        return content.hexdigest()

    def __repr__(self) -> str:
        return f"Constant({self.type})"


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A contiguous copy at a 64-byte boundary, which compilers and runtimes read in place."""
    copy: np.ndarray = aligned_empty(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def aligned_empty(length: int) -> np.ndarray:
    """Bytes at a 64-byte boundary, u8 (length,), with whatever was there."""
    buffer = np.empty(length + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + length]
