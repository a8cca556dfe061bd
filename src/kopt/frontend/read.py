"""Getting a ModelProto from what the user names, safely."""

from __future__ import annotations

import mmap
import os
import stat
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from kopt.errors import FileError, InvalidModelError, UsageError
from kopt.frontend.skim import LARGE, skim
from kopt.frontend.tensors import Stored
from kopt.ir.constant import aligned_empty

MAX_PROTO_BYTES = 2**31 - 1
"""protobuf's limit of one message; larger models keep their weights in external data."""


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A parsed model.

    Attributes:
        proto: the model.
        name: of the model, for messages.
        folder: where its external data lies; None: none is allowed.
        apart: large initializers of the main graph whose bytes are still in the file, by position.
    """

    proto: onnx.ModelProto
    name: str
    folder: Path | None
    apart: Mapping[int, Stored] = field(default_factory=dict)


def read_model(model: str | Path | bytes | onnx.ModelProto) -> ReadModel:
    """The parsed model that a caller names.

    Raises:
        FileError: missing, unreadable, or not a regular file.
        InvalidModelError: empty, truncated or not ONNX.
        UsageError: something else than a path, bytes or a ModelProto.
    """
    if isinstance(model, onnx.ModelProto):
        return ReadModel(model, model.graph.name or "model", None)
    if isinstance(model, bytes):
        return ReadModel(_parse(model, "model"), "model", None)
    if not isinstance(model, str | os.PathLike):
        raise UsageError(f"a model is a path, bytes or an onnx.ModelProto, not {type(model).__name__}")
    path = Path(model)
    if "\0" in str(path):
        raise UsageError("a path holds a NUL character", next_step="correct the path")
    file = ModelFile(path)
    content, apart = file.skimmed()
    tensors = {position: Stored(length, partial(file.read, offset, length)) for position, (offset, length) in apart.items()}
    return ReadModel(_parse(content, path.name), path.name, path.parent, tensors)


class ModelFile:
    """A regular file that stays open while something of it may be read; opening never blocks on a pipe or device."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            FileError: missing, unreadable, or not a regular file.
            InvalidModelError: larger than protobuf takes.
        """
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise FileError(
                f"cannot read the model: {error.strerror}", where=str(path), next_step="check the path and its permissions"
            ) from None
        weakref.finalize(self, os.close, self._descriptor)
        self._status = os.fstat(self._descriptor)
        if not stat.S_ISREG(self._status.st_mode):
            raise FileError("the model is not a regular file", where=str(path), next_step="give the path of an .onnx file")
        if self._status.st_size > MAX_PROTO_BYTES:
            raise InvalidModelError(
                f"the file has {self._status.st_size} bytes, protobuf takes at most {MAX_PROTO_BYTES}",
                where=str(path),
                next_step="save the weights as external data",
            )

    def skimmed(self) -> tuple[bytes, Mapping[int, tuple[int, int]]]:
        """The content but for the bytes of large tensors, and where these are."""
        if self._status.st_size >= LARGE:
            with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
                found = skim(content)
                if found is not None:
                    return found
        return self.read(0, self._status.st_size).tobytes(), {}

    def read(self, offset: int, length: int) -> np.ndarray:
        """Bytes of the file: u8 (length,), at a 64-byte boundary.

        Raises:
            FileError: the file was written to since it was opened, or cannot be read.
        """
        held = aligned_empty(length)
        rest, at = held.data, offset
        now = os.fstat(self._descriptor)
        try:
            while rest and (taken := os.preadv(self._descriptor, [rest], at)):
                rest, at = rest[taken:], at + taken
        except OSError as error:
            raise FileError(f"cannot read the model: {error.strerror}", where=str(self.path), next_step="check the disk") from None
        if rest or (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise FileError("the model was written to while it was being read", where=str(self.path), next_step="run it again")
        return held


def _parse(content: bytes, name: str) -> onnx.ModelProto:
    if not content:
        raise InvalidModelError("the file is empty", where=name, next_step="export the model again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise InvalidModelError("the file is truncated or not ONNX", where=name, next_step="export the model again") from None
    if not model.HasField("graph") or not (model.ir_version or model.opset_import):
        raise InvalidModelError("the file holds no ONNX model", where=name, next_step="give the path of an .onnx file")
    return model
