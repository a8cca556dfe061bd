"""Large tensors of a model file, left where they lie until somebody reads them.

Protobuf would read the whole file and copy each tensor twice, which for a model of hundreds of megabytes takes longer than all that
`kopt inspect` does. Only the initializers of the main graph are looked at, where such tensors are.
Source: the wire format of protobuf, https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LARGE = 1 << 16
"""Bytes from which on a tensor is left in the file."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Fields of ModelProto, GraphProto and TensorProto. Source: onnx.proto."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}


class _UnusualError(Exception):
    """A form of message that protobuf itself shall judge."""


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    kind: int
    start: int
    payload: int
    end: int


def skim(content: memoryview, large: int = LARGE) -> tuple[bytes, dict[int, tuple[int, int]]] | None:
    """The model without the bytes of its large tensors, and where these lie: position of the initializer -> offset and length.

    A tensor without its bytes keeps an empty ``raw_data``. None where nothing is large, or the file is not of the usual form.
    """
    try:
        (graph,) = [one for one in _fields(content, 0, len(content)) if (one.number, one.kind) == (_GRAPH, _BYTES)]
        parts, apart = _graph(content, graph, large)
    except (_UnusualError, ValueError, IndexError):  # no graph or several, or a file that ends too early
        return None
    if not apart:
        return None
    length = sum(map(len, parts))
    held = (content[: graph.start], _head(_GRAPH, length), *parts, content[graph.end :])
    return b"".join(held), apart


def _graph(content: memoryview, graph: _Field, large: int) -> tuple[list[bytes | memoryview], dict[int, tuple[int, int]]]:
    """The fields of the graph, those of large initializers without their data, and where that lies."""
    parts: list[bytes | memoryview] = []
    apart: dict[int, tuple[int, int]] = {}
    position, kept_from = 0, graph.payload
    for one in _fields(content, graph.payload, graph.end):
        if one.number != _INITIALIZER or one.kind != _BYTES:
            continue
        raw = _raw_data(content, one) if one.end - one.payload >= large else None
        if raw is not None and raw.end - raw.payload >= large:
            rest = (content[one.payload : raw.start], _head(_RAW_DATA, 0), content[raw.end : one.end])
            parts += (content[kept_from : one.start], _head(_INITIALIZER, sum(map(len, rest))), *rest)
            apart[position] = (raw.payload, raw.end - raw.payload)
            kept_from = one.end
        position += 1
    parts.append(content[kept_from : graph.end])
    return parts, apart


def _raw_data(content: memoryview, tensor: _Field) -> _Field | None:
    """The one field of a tensor that holds its bytes. Protobuf takes the last of several."""
    found = [one for one in _fields(content, tensor.payload, tensor.end) if one.number == _RAW_DATA]
    if any(one.kind != _BYTES for one in found) or len(found) > 1:
        raise _UnusualError
    return found[0] if found else None


def _fields(content: memoryview, start: int, end: int) -> Iterator[_Field]:
    """The fields of one message, in order.

    Raises:
        _UnusualError: a field leaves the message, or is a group.
    """
    while start < end:
        key, payload = _varint(content, start)
        kind = key & 7
        if kind == _BYTES:
            length, payload = _varint(content, payload)
            stop = payload + length
        elif kind == _VARINT:
            stop = _varint(content, payload)[1]
        elif kind in _FIXED:
            stop = payload + _FIXED[kind]
        else:
            raise _UnusualError
        if stop > end:
            raise _UnusualError
        yield _Field(key >> 3, kind, start, payload, stop)
        start = stop


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number of at most ten bytes, and where it ends."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _UnusualError


def _head(number: int, length: int) -> bytes:
    """Key and length of a field of bytes."""
    key, found = bytes([number << 3 | _BYTES]), bytearray()
    while length > 0x7F:
        found.append(length & 0x7F | 0x80)
        length >>= 7
    found.append(length)
    return key + bytes(found)
