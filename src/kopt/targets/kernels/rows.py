"""Input rows of a block of output rows: read in place, or copied between zeros where the image has borders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tvm import tirx
from tvm.tirx.script import builder as build

from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.emit import Buffer, Expression, Vectors, index

Reader: TypeAlias = Callable[[Expression, Expression], tuple[Expression, ...]]


def input_rows(
    image: Image, rows: int, vectors: Vectors, x: Buffer, picture: Expression, first: Expression, border: Expression | None = None
) -> tuple[Buffer, Reader]:
    """A buffer, and where in it element ``position`` (column * C + channel) of padded row ``row`` of the block lies.

    Args:
        image: sizes.
        rows: output rows of the block.
        vectors: the register width.
        x: the images as (N * H, W * C).
        picture: which image.
        first: the block's first output row.
        border: what borders hold, default 0.0.
    """
    empty = tirx.const(0.0, "float32") if border is None else border
    top = image.pads[0]
    start = picture * image.height + first * image.strides[0]
    if not image.is_padded:
        return x, lambda row, position: (start + row, position)
    copy = build.alloc_buffer((image.needed_rows(rows), image.needed_width * image.channels), x.dtype, scope="local")
    with build.serial(image.needed_rows(rows)) as row:
        place = first * image.strides[0] + row - top
        with build.If(tirx.all(place >= 0, place < index(image.height))):
            with build.Then():
                _copy_row(image, vectors, x, picture * image.height + place, copy, row, empty)
            with build.Else():
                _fill(vectors, copy, row, (0, image.needed_width * image.channels), empty)
    return copy, lambda row, position: (row, position)


def _copy_row(image: Image, vectors: Vectors, x: Buffer, source: Expression, copy: Buffer, row: Expression, empty: Expression) -> None:
    """A border, the image's row as far as it is needed, a border."""
    before = min(image.pads[1], image.needed_width) * image.channels
    count = min(image.width, image.needed_width - before // image.channels) * image.channels
    _fill(vectors, copy, row, (0, before), empty)
    whole = count // vectors.lanes
    with build.serial(whole) as step:
        vectors.store(copy, vectors.load(x, source, step * vectors.lanes), row, step * vectors.lanes + before)
    with build.serial(count - whole * vectors.lanes) as rest:
        place = rest + whole * vectors.lanes
        build.buffer_store(copy, x[source, place], [row, place + before])
    _fill(vectors, copy, row, (before + count, image.needed_width * image.channels), empty)


def _fill(vectors: Vectors, copy: Buffer, row: Expression, part: tuple[int, int], empty: Expression) -> None:
    """The border in [start, end) of a row."""
    start, end = part
    whole = (end - start) // vectors.lanes
    if whole:
        with build.serial(whole) as step:
            vectors.store(copy, vectors.broadcast(empty), row, step * vectors.lanes + start)
    for place in range(start + whole * vectors.lanes, end):
        build.buffer_store(copy, empty, [row, index(place)])
