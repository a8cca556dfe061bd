"""Code of softmax, normalization, pooling and products of computed matrices."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.emit import Buffer, Expression, Vectors, index
from kopt.targets.kernels.tile import RegisterTile, first_of, part, unrolled
from kopt.targets.tvm_loops import Batched, RowNorm, Window
from kopt.targets.tvm_nest import combined, coordinates, evaluate, fold, frame, offset, read, width_of
from kopt.targets.tvm_scalar import Lanes

_LOWEST = -3.0e38  # stands for the largest of a row that is -inf throughout


class _Row:
    """A row in a buffer of the task, and passes over it: whole vectors, then the rest element by element."""

    def __init__(self, size: int, lanes: int) -> None:
        self.size = size
        self.width = Lanes(width_of(size, lanes))
        self.values = build.alloc_buffer((size,), "float32", scope="local")

    def each(self, step: Any) -> None:
        """``step(lanes, first element)`` over the row."""
        whole = self.size // self.width.lanes
        with build.serial(whole) as s:
            step(self.width, s * self.width.lanes)
        if self.size > whole * self.width.lanes:
            with build.serial(self.size - whole * self.width.lanes) as rest:
                step(Lanes(1), rest + whole * self.width.lanes)

    def combine(self, name: str, start: float, value: Any) -> Expression:
        """``value(lanes, first element)`` of all elements combined; the result lies in a buffer of one element."""
        held = build.alloc_buffer((self.width.lanes,), "float32", scope="local")
        self.width.store(held, self.width.number(start, "float32"), index(0))

        def step(lanes: Lanes, place: Expression) -> None:
            lanes.store(held, combined(lanes, name, "float32", lanes.load(held, index(0)), value(lanes, place)), index(0))

        self.each(step)
        total = build.alloc_buffer((1,), "float32", scope="local")
        one = Lanes(1)
        build.buffer_store(total, fold(held, self.width.lanes, lambda a, b: combined(one, name, "float32", a, b)), [index(0)])
        return total[index(0)]

    def load(self, lanes: Lanes, place: Expression) -> Expression:
        """Elements of the row."""
        return lanes.load(self.values, place)


def emit_row_norm(loop: RowNorm, name: str, lanes: int) -> Any:
    """One task: its rows, each computed into a buffer, then normalized from there."""
    total = prod(loop.rows)
    chunk = -(-total // loop.tasks)
    with (
        IRBuilder() as builder,
        frame(name, [*(one.dtype for one in loop.operands), "float32"]) as (buffers, task),
        build.serial(chunk) as c,
    ):
        number = part(task, c, chunk, total)
        row = _Row(loop.size, lanes)
        _fill(loop, row, buffers, number)
        normalize = _softmax if loop.kind.endswith("softmax") else _normalize
        normalize(loop, row, buffers, number * loop.size)
    return builder.get()


def _fill(loop: RowNorm, row: _Row, buffers: list[Buffer], number: Expression) -> None:
    where = coordinates(number, loop.rows)
    firsts = [offset(where, one.strides) for one in loop.operands]

    def step(lanes: Lanes, place: Expression) -> None:
        def load(k: int) -> Expression:
            stride = loop.operands[k].strides[-1]
            return read(lanes, buffers[k], loop.operands[k], firsts[k] + place * index(stride), stride)

        lanes.store(row.values, evaluate(lanes, loop.expression, load)[0], place)

    row.each(step)


def _softmax(loop: RowNorm, row: _Row, buffers: list[Buffer], start: Expression) -> None:
    largest, log = row.combine("max", _LOWEST, row.load), loop.kind == "log_softmax"

    def exponent(lanes: Lanes, place: Expression) -> Expression:
        value = lanes.exp(row.load(lanes, place) - lanes.broadcast(largest))
        if not log:
            lanes.store(row.values, value, place)
            return row.load(lanes, place)
        return value

    total = row.combine("sum", 0.0, exponent)
    held = build.alloc_buffer((1,), "float32", scope="local")
    one = tirx.const(1.0, "float32")
    share = one / total
    if loop.kind == "masked_softmax":
        share = tirx.Select(tirx.EQ(total, tirx.const(0.0, "float32")), tirx.const(0.0, "float32"), share)
    build.buffer_store(held, largest + tirx.log(total) if log else share, [index(0)])

    def finish(lanes: Lanes, place: Expression) -> None:
        factor = lanes.broadcast(held[index(0)])
        value = row.load(lanes, place)
        lanes.store(buffers[-1], value - factor if log else value * factor, start + place)

    row.each(finish)


def _normalize(loop: RowNorm, row: _Row, buffers: list[Buffer], start: Expression) -> None:
    share = tirx.const(1.0 / loop.size, "float32")
    mean = build.alloc_buffer((1,), "float32", scope="local")
    zero = tirx.const(0.0, "float32")
    build.buffer_store(mean, row.combine("sum", 0.0, row.load) * share if loop.kind == "layer" else zero, [index(0)])

    def square(lanes: Lanes, place: Expression) -> Expression:
        centred = row.load(lanes, place) - lanes.broadcast(mean[index(0)])
        return centred * centred

    factor = build.alloc_buffer((1,), "float32", scope="local")
    variance = row.combine("sum", 0.0, square) * share + tirx.const(loop.epsilon, "float32")
    build.buffer_store(factor, tirx.const(1.0, "float32") / tirx.sqrt(variance), [index(0)])
    scale, bias = (buffers[-3], buffers[-2]) if loop.bias else (buffers[-2], None)

    def finish(lanes: Lanes, place: Expression) -> None:
        value = (row.load(lanes, place) - lanes.broadcast(mean[index(0)])) * lanes.broadcast(factor[index(0)])
        value = value * lanes.load(scale, place)
        lanes.store(buffers[-1], value if bias is None else value + lanes.load(bias, place), start + place)

    row.each(finish)


def emit_window(loop: Window, name: str, lanes: int) -> Any:
    """One task: its output rows. Places outside of the image repeat the nearest one inside (max) or count nothing (mean)."""
    batch, height, width, channels = loop.image
    (out_height, out_width), (kh, kw), (sh, sw) = loop.output, loop.kernel, loop.strides
    vectors = Lanes(width_of(channels, lanes))
    total = batch * out_height
    chunk = -(-total // loop.tasks)
    with IRBuilder() as builder, frame(name, ["float32", "float32"]) as (buffers, task):
        x, y = buffers
        with build.serial(chunk) as c:
            line = part(task, c, chunk, total)
            top = line % out_height * sh - loop.pads[0]
            with build.serial(out_width) as column, build.serial(-(-channels // vectors.lanes)) as s:
                left, channel = column * sw - loop.pads[1], first_of(s, vectors.lanes, channels)
                best = build.alloc_buffer((vectors.lanes,), "float32", scope="local")
                vectors.store(best, vectors.number(float("-inf") if loop.kind == "max" else 0.0, "float32"), index(0))
                for tap in range(kh * kw):
                    row, place = top + tap // kw, left + tap % kw
                    inside = tirx.all(row >= 0, row < height, place >= 0, place < width)
                    row, place = (tirx.max(index(0), tirx.min(at, index(limit - 1))) for at, limit in ((row, height), (place, width)))
                    start = ((line // out_height * height + row) * width + place) * channels + channel
                    found, value = vectors.load(x, start), vectors.load(best, index(0))
                    if loop.kind == "max":
                        value = combined(vectors, "max", "float32", value, found)
                    else:
                        value = value + tirx.Select(vectors.broadcast(inside), found, vectors.number(0.0, "float32"))
                    vectors.store(best, value, index(0))
                value = vectors.load(best, index(0))
                if loop.kind != "max":
                    value = value * vectors.broadcast(_share(loop, top, left))
                vectors.store(y, value, (line * out_width + column) * channels + channel)
    return builder.get()


def _share(loop: Window, top: Expression, left: Expression) -> Expression:
    """One over the elements that count."""
    (kh, kw), (_, height, width, _) = loop.kernel, loop.image
    if loop.kind == "mean_padded":
        return tirx.const(1.0 / (kh * kw), "float32")
    rows = tirx.min(top + kh, index(height)) - tirx.max(top, index(0))
    columns = tirx.min(left + kw, index(width)) - tirx.max(left, index(0))
    return tirx.const(1.0, "float32") / tirx.Cast("float32", rows * columns)


def emit_batched(loop: Batched, name: str, lanes: int) -> Any:
    """One task: its tiles of rows and columns of all batches."""
    vectors = Vectors(lanes)
    tiles, panels, batches = -(-loop.m // loop.rows), -(-loop.n // loop.panel), prod(loop.batch)
    total = batches * panels * tiles
    chunk = -(-total // loop.tasks)
    with IRBuilder() as builder, frame(name, ["float32"] * 3) as (buffers, task):
        x, w, y = buffers
        with build.serial(chunk) as c:
            number = part(task, c, chunk, total)
            row = first_of(number % tiles, loop.rows, loop.m)
            column = first_of(number // tiles % panels, loop.panel, loop.n)
            batch = number // (tiles * panels)
            where = coordinates(batch, loop.batch)
            left, right = offset(where, loop.left), offset(where, loop.right)
            tile = RegisterTile(vectors, loop.rows, loop.panel)
            tile.start(None)

            def step(k: Expression) -> None:
                tile.multiply(
                    lambda i: x[left + (row + i) * index(loop.left[-2]) + k * index(loop.left[-1])],
                    lambda j: vectors.load(w, right + k * index(loop.right[-1]) + column + j),
                )

            unrolled(loop.k, 4, step)
            first = batch * (loop.m * loop.n) + row * loop.n + column
            tile.finish(None, None, lambda i, j, value: vectors.store(y, value, first + i * loop.n + j))
    return builder.get()
