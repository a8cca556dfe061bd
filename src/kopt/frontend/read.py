"""Getting a ModelProto from what the user names, safely."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from kopt.errors import FileError, InvalidModelError, UsageError

MAX_PROTO_BYTES = 2**31 - 1
"""protobuf's limit of one message; larger models keep their weights in external data."""


def read_model(model: str | Path | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, str, Path | None]:
    """The parsed model, its name for messages, and the folder its external data lies in (None: none allowed).

    Raises:
        FileError: missing, unreadable, or not a regular file.
        InvalidModelError: empty, truncated or not ONNX.
        UsageError: something else than a path, bytes or a ModelProto.
    """
    if isinstance(model, onnx.ModelProto):
        return model, model.graph.name or "model", None
    if isinstance(model, bytes):
        return _parse(model, "model"), "model", None
    if not isinstance(model, str | os.PathLike):
        raise UsageError(f"a model is a path, bytes or an onnx.ModelProto, not {type(model).__name__}")
    path = Path(model)
    if "\0" in str(path):
        raise UsageError("a path holds a NUL character", next_step="correct the path")
    return _parse(read_regular_file(path, MAX_PROTO_BYTES), path.name), path.name, path.parent


def read_regular_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; never blocks on a pipe or device.

    Raises:
        FileError: missing, unreadable, or not a regular file.
        InvalidModelError: larger than the limit.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise FileError(
            f"cannot read the model: {error.strerror}", where=str(path), next_step="check the path and its permissions"
        ) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FileError("the model is not a regular file", where=str(path), next_step="give the path of an .onnx file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise InvalidModelError(
                f"the file has {status.st_size} bytes, protobuf takes at most {limit}",
                where=str(path),
                next_step="save the weights as external data",
            )
        return file.read()


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
