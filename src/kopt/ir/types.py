"""Types of values: element types, dimensions, tensors, sequences and optionals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import TypeAlias

import ml_dtypes
import numpy as np

Dim: TypeAlias = int | str  # a str is symbolic: the ONNX dim_param, or "?N" for an anonymous one


class DType(StrEnum):
    """Element types, by kopt's short names."""

    BOOL = "bool"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    F64 = "f64"
    C64 = "c64"
    C128 = "c128"
    I4 = "i4"
    U4 = "u4"
    I2 = "i2"
    U2 = "u2"
    F4E2M1 = "f4e2m1"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E8M0 = "f8e8m0"
    STRING = "string"

    @property
    def numpy(self) -> np.dtype:
        """The numpy (or ml_dtypes) element type; strings are object arrays."""
        return _NUMPY[self]

    @property
    def onnx(self) -> int:
        """The value of ``onnx.TensorProto.DataType``."""
        return _ONNX[self]

    @property
    def num_bits(self) -> int:
        """Bits an element takes in an ONNX file (sub-byte types are packed); 0 for strings."""
        return _SUB_BYTE_BITS.get(self, 0 if self is DType.STRING else self.numpy.itemsize * 8)

    @property
    def is_float(self) -> bool:
        """Whether this is a floating-point type, 8-bit and smaller ones included."""
        return self.value[0] == "f" or self is DType.BF16

    @property
    def is_integer(self) -> bool:
        """Whether this is a signed or unsigned integer type."""
        return self.value[0] in "iu"

    @classmethod
    def from_numpy(cls, dtype: np.typing.DTypeLike) -> DType:
        """The type of a numpy array's elements.

        Raises:
            KeyError: numpy type without an ONNX counterpart.
        """
        found = np.dtype(dtype)
        return cls.STRING if found.kind in "OUST" else _FROM_NUMPY[found]

    @classmethod
    def from_onnx(cls, value: int) -> DType:
        """The type for a value of ``onnx.TensorProto.DataType``.

        Raises:
            KeyError: UNDEFINED or a number ONNX does not define.
        """
        return _FROM_ONNX[value]


_NUMPY: dict[DType, np.dtype] = {
    DType.BOOL: np.dtype(np.bool_),
    DType.I8: np.dtype(np.int8),
    DType.I16: np.dtype(np.int16),
    DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64),
    DType.U8: np.dtype(np.uint8),
    DType.U16: np.dtype(np.uint16),
    DType.U32: np.dtype(np.uint32),
    DType.U64: np.dtype(np.uint64),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.F32: np.dtype(np.float32),
    DType.F64: np.dtype(np.float64),
    DType.C64: np.dtype(np.complex64),
    DType.C128: np.dtype(np.complex128),
    DType.I4: np.dtype(ml_dtypes.int4),
    DType.U4: np.dtype(ml_dtypes.uint4),
    DType.I2: np.dtype(ml_dtypes.int2),
    DType.U2: np.dtype(ml_dtypes.uint2),
    DType.F4E2M1: np.dtype(ml_dtypes.float4_e2m1fn),
    DType.F8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.F8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DType.F8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DType.F8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DType.F8E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
    DType.STRING: np.dtype(object),
}
_FROM_NUMPY = {dtype: name for name, dtype in _NUMPY.items()}
_SUB_BYTE_BITS = {DType.I4: 4, DType.U4: 4, DType.F4E2M1: 4, DType.I2: 2, DType.U2: 2}

# Source: onnx.proto, TensorProto.DataType.
_ONNX: dict[DType, int] = {
    DType.F32: 1,
    DType.U8: 2,
    DType.I8: 3,
    DType.U16: 4,
    DType.I16: 5,
    DType.I32: 6,
    DType.I64: 7,
    DType.STRING: 8,
    DType.BOOL: 9,
    DType.F16: 10,
    DType.F64: 11,
    DType.U32: 12,
    DType.U64: 13,
    DType.C64: 14,
    DType.C128: 15,
    DType.BF16: 16,
    DType.F8E4M3FN: 17,
    DType.F8E4M3FNUZ: 18,
    DType.F8E5M2: 19,
    DType.F8E5M2FNUZ: 20,
    DType.U4: 21,
    DType.I4: 22,
    DType.F4E2M1: 23,
    DType.F8E8M0: 24,
    DType.U2: 25,
    DType.I2: 26,
}
_FROM_ONNX = {number: name for name, number in _ONNX.items()}


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape of a tensor; ``shape`` is None while even the rank is unknown."""

    dtype: DType
    shape: tuple[Dim, ...] | None

    @property
    def rank(self) -> int | None:
        """Number of dimensions, None while unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return self.shape is not None and all(isinstance(dim, int) for dim in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as numbers.

        Raises:
            ValueError: a dimension is symbolic or the rank is unknown.
        """
        if self.shape is None or not all(isinstance(dim, int) for dim in self.shape):
            raise ValueError(f"{self} is not static")
        return tuple(int(dim) for dim in self.shape)

    @property
    def size(self) -> int:
        """Number of elements of a static tensor."""
        return prod(self.static_shape)

    def bind(self, dims: Mapping[str, int]) -> TensorType:
        """The same type with the named symbolic dimensions replaced by numbers."""
        if self.shape is None:
            return self
        return TensorType(self.dtype, tuple(dims.get(dim, dim) if isinstance(dim, str) else dim for dim in self.shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{'...' if self.shape is None else ','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A sequence of tensors (or of sequences)."""

    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value that may be absent."""

    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True, slots=True)
class MapType:
    """Values by integers or text, as some operators of ai.onnx.ml make and take them; a dict at run time."""

    key: DType
    element: Type

    def __str__(self) -> str:
        return f"map({self.key}, {self.element})"


Type: TypeAlias = TensorType | SequenceType | OptionalType | MapType
