"""Tensors in a safetensors file, every one at a multiple of 64 bytes, read in place.

The safetensors package writes tensors back to back and its numpy reader copies them; XLA reads a weight without a copy only
where it is aligned to 64 bytes. The format allows no holes, so gaps are filled with padding tensors of their own: the file
stays readable for every other safetensors reader.
Source: format description in the safetensors README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from kopt.errors import CorruptArtifactError
from kopt.ir.types import DType

ALIGNMENT = 64
PADDING_PREFIX = "kopt.padding."
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit

_NAMES = {
    DType.BOOL: "BOOL",
    DType.I8: "I8",
    DType.I16: "I16",
    DType.I32: "I32",
    DType.I64: "I64",
    DType.U8: "U8",
    DType.U16: "U16",
    DType.U32: "U32",
    DType.U64: "U64",
    DType.F16: "F16",
    DType.BF16: "BF16",
    DType.F32: "F32",
    DType.F64: "F64",
    DType.C64: "C64",
    DType.F8E4M3FN: "F8_E4M3",
    DType.F8E5M2: "F8_E5M2",
    DType.F8E8M0: "F8_E8M0",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Layout:
    """Where each tensor lies.

    Attributes:
        header: the first bytes of the file.
        offsets: absolute position of each tensor.
        num_bytes: size of the file.
    """

    header: bytes
    offsets: Mapping[str, int]
    num_bytes: int


def layout(tensors: Mapping[str, np.ndarray]) -> Layout:
    """The header for ``tensors`` in their order, with padding in between.

    Element types the format has no name for (4-bit integers, complex128) are stored as bytes, their type in the metadata.
    """
    entries: dict[str, Any] = {}
    starts: dict[str, int] = {}
    foreign: dict[str, str] = {}
    position = 0
    for name, array in tensors.items():
        dtype = DType.from_numpy(array.dtype)
        starts[name] = position
        shape = list(array.shape)
        if dtype not in _NAMES:
            foreign[name] = json.dumps([str(dtype), shape])
            shape = [array.nbytes]
        entries[name] = {"dtype": _NAMES.get(dtype, "U8"), "shape": shape, "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
        gap = -position % ALIGNMENT
        if gap:
            entries[f"{PADDING_PREFIX}{len(entries)}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [position, position + gap]}
            position += gap
    if foreign:
        entries = {_METADATA: foreign, **entries}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, {name: len(header) + start for name, start in starts.items()}, len(header) + position)


def pieces(tensors: Mapping[str, np.ndarray], placed: Layout) -> Iterator[memoryview | bytes]:
    """The bytes of the file in order; arrays are not copied unless they are strided."""
    yield placed.header
    position = len(placed.header)
    for array in tensors.values():
        if array.nbytes:
            yield np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.ndim else array.tobytes()
        position += array.nbytes
        gap = -position % ALIGNMENT
        yield bytes(gap)
        position += gap


def read(buffer: memoryview, where: str) -> dict[str, np.ndarray]:
    """Read-only views of every tensor of a safetensors file that lies in ``buffer``; nothing is copied.

    Raises:
        CorruptArtifactError: the header contradicts the format or the size of the buffer.
    """
    try:
        return dict(_views(buffer))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"not a safetensors file: {type(error).__name__}: {error}"
        raise CorruptArtifactError(what, where=where, next_step="compile the model again") from error


def _views(buffer: memoryview) -> Iterator[tuple[str, np.ndarray]]:
    length = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 or length > min(len(buffer) - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"the header of {length} bytes does not fit")
    header = json.loads(bytes(buffer[8 : 8 + length]))
    foreign = header.pop(_METADATA, {})
    start = 8 + length
    whole = np.frombuffer(buffer, np.uint8)
    whole.flags.writeable = False
    for name, entry in header.items():
        if name.startswith(PADDING_PREFIX):
            continue
        begin, end = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        if name in foreign:
            spelled, dims = json.loads(foreign[name])
            dtype, shape = DType(spelled), tuple(dims)
        if any(not isinstance(size, int) or size < 0 for size in (*shape, begin)) or start + end > len(buffer):
            raise ValueError(f"'{name}' lies outside the file")
        if end - begin != prod(shape) * dtype.numpy.itemsize:
            raise ValueError(f"'{name}' has {end - begin} bytes for {dtype}{list(shape)}")
        yield name, whole[start + begin : start + end].view(dtype.numpy).reshape(shape)
