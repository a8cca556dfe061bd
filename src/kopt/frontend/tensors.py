"""Tensors of a model as Constants: sizes checked before anything is allocated, external data read lazily."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper, numpy_helper

from kopt.errors import FileError, InvalidModelError
from kopt.ir.constant import Constant, aligned_copy
from kopt.ir.types import DType, TensorType

_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})


@dataclass(frozen=True, slots=True)
class Stored:
    """Raw data that has not been read yet.

    Attributes:
        length: in bytes.
        read: gives them, aligned.
    """

    length: int
    read: Callable[[], np.ndarray]


def constant_from_proto(tensor: TensorProto, folder: Path | None, model: str, stored: Stored | None = None) -> Constant:
    """The tensor as a Constant of checked size.

    Args:
        tensor: the tensor.
        folder: of the model, None where external data is not allowed.
        model: its name for messages.
        stored: its raw data where that is still in the model's file.

    Raises:
        InvalidModelError: element type, dimensions and bytes do not fit, or external data is out of bounds.
    """
    where = f"{model}: tensor '{tensor.name}'"
    try:
        dtype = DType.from_onnx(tensor.data_type)
    except KeyError:
        raise InvalidModelError(
            f"element type {tensor.data_type} does not exist", where=where, next_step="see onnx.TensorProto.DataType"
        ) from None
    shape = tuple(tensor.dims)
    if any(dim < 0 for dim in shape):
        raise InvalidModelError(f"dimensions {list(shape)} are negative", where=where, next_step="export the model again")
    type_, expected = TensorType(dtype, shape), stored_bytes(dtype, shape)
    if tensor.data_location == TensorProto.EXTERNAL or external_data_helper.uses_external_data(tensor):
        return _external(tensor, type_, expected, folder, where)
    if tensor.HasField("raw_data"):
        if any(len(getattr(tensor, field)) for field in _TYPED_FIELDS):
            raise InvalidModelError("both raw_data and typed data are set", where=where, next_step="export the model again")
        raw = tensor.raw_data if stored is None else b""  # each access copies
        length = len(raw) if stored is None else stored.length
        if length != expected:
            raise InvalidModelError(
                f"{type_} takes {expected} bytes but {length} are there",
                where=where,
                next_step="the file is damaged; export it again",
            )
        return Constant(type_, _Aligned(raw, type_) if stored is None else _Once(stored, type_))
    held = sum(len(getattr(tensor, field)) for field in _TYPED_FIELDS)
    if prod(shape) > 0 and held == 0:
        raise InvalidModelError(f"{type_} has no values", where=where, next_step="the weights were stripped; export the model with them")
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidModelError(f"the values do not fill {type_}: {error}", where=where, next_step="export the model again") from None
    return Constant(type_, lambda: array)


class _Aligned:
    """Values that are moved to an aligned place when first read: describing a model reads none of the large ones."""

    def __init__(self, raw: bytes, type_: TensorType) -> None:
        self._held = decode(raw, type_)
        self._moved = False

    def __call__(self) -> np.ndarray:
        if not self._moved:  # threads that meet here move it twice, to no harm
            self._held = aligned_copy(self._held)
            self._moved = True
        return self._held


class _Once:
    """Values that are read from the model's file when first asked for."""

    def __init__(self, stored: Stored, type_: TensorType) -> None:
        self._stored = stored
        self._type = type_
        self._held: np.ndarray | None = None

    def __call__(self) -> np.ndarray:
        if self._held is None:  # threads that meet here read it twice, to no harm
            self._held = decode(self._stored.read(), self._type)
        return self._held


def stored_bytes(dtype: DType, shape: tuple[int, ...]) -> int:
    """Bytes of raw data a tensor takes in a file; sub-byte elements are packed."""
    return (prod(shape) * dtype.num_bits + 7) // 8


def decode(raw: bytes | memoryview | np.ndarray, type_: TensorType) -> np.ndarray:
    """An array over raw little-endian data, without a copy unless elements are packed."""
    if type_.dtype.num_bits < 8:
        proto = TensorProto(data_type=type_.dtype.onnx, dims=type_.static_shape, raw_data=bytes(raw))
        return numpy_helper.to_array(proto)
    return np.frombuffer(raw, dtype=type_.dtype.numpy).reshape(type_.static_shape)


def _external(tensor: TensorProto, type_: TensorType, expected: int, folder: Path | None, where: str) -> Constant:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries or entry.key not in _EXTERNAL_KEYS:
            raise InvalidModelError(
                f"external data has a repeated or unknown key '{entry.key}'", where=where, next_step="export the model again"
            )
        entries[entry.key] = entry.value
    path = _contained(entries.get("location", ""), folder, where)
    size = _regular_size(path, where)
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else expected
    except ValueError:
        raise InvalidModelError(
            "external data has an offset or length that is no number", where=where, next_step="export the model again"
        ) from None
    if offset < 0 or length != expected or offset + length > size:
        raise InvalidModelError(
            f"external data at {offset}+{length} does not fit: {type_} takes {expected} bytes and '{path.name}' has {size}",
            where=where,
            next_step="the data file does not belong to this model, or is truncated",
        )

    def read() -> np.ndarray:
        if not expected:
            return np.empty(type_.static_shape, type_.dtype.numpy)
        return decode(np.memmap(path, np.uint8, "r", offset, expected), type_)

    if "checksum" in entries:
        _verify_checksum(path, entries["checksum"], where)
    return Constant(type_, read)


def _contained(location: str, folder: Path | None, where: str) -> Path:
    """The data file, which must lie inside the model's folder by its real path."""
    step = "keep the data file beside the model"
    if folder is None:
        raise InvalidModelError("external data needs the model's folder", where=where, next_step="give the model as a path")
    if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts or "://" in location:
        raise InvalidModelError(f"external data location {location!r} is not allowed", where=where, next_step=step)
    path = folder / location
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise InvalidModelError(f"external data '{location}' lies outside the model's folder", where=where, next_step=step)
    return real


def _regular_size(path: Path, where: str) -> int:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise InvalidModelError(
            f"external data '{path.name}' cannot be read: {error}", where=where, next_step="copy it beside the model"
        ) from None
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise InvalidModelError(
            f"external data '{path.name}' is not a regular file with one link", where=where, next_step="copy it beside the model"
        )
    return status.st_size


def _verify_checksum(path: Path, expected: str, where: str) -> None:
    """SHA1 over the whole file. Source: ONNX external data documentation."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
    if found != expected.lower():
        raise InvalidModelError(f"external data '{path.name}' has another checksum", where=where, next_step="copy the data file again")


def read_tensor_file(path: Path) -> np.ndarray:
    """The array of a serialized TensorProto, such as ``test_data_set_0/input_0.pb``.

    Raises:
        InvalidModelError: not a tensor.
        FileError: unreadable.
    """
    try:
        tensor = TensorProto.FromString(path.read_bytes())
    except OSError as error:
        raise FileError(f"cannot read: {error.strerror}", where=str(path), next_step="check the path") from None
    except DecodeError:
        raise InvalidModelError("this is no serialized TensorProto", where=str(path), next_step="export the test data again") from None
    return constant_from_proto(tensor, path.parent, str(path)).array()
