"""Code of the element-wise, reducing and gathering loops: explicit vectors inside, one task of the parallel loop per call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.emit import Buffer, Expression, index
from kopt.targets.kernels.tile import first_of, part
from kopt.targets.tvm_loops import Map, Operand, Reduce, Rows
from kopt.targets.tvm_scalar import REPEATING, Lanes, apply

UNROLL = 4
"""Vectors of a step of an element-wise loop."""


@contextmanager
def frame(name: str, dtypes: Sequence[str]) -> Iterator[tuple[list[Buffer], Expression]]:
    """A function of flat arrays and a task number, for use inside an ``IRBuilder``; truth values are bytes."""
    with build.prim_func(s_tir=True):
        build.func_name(name)
        build.func_attr({"tirx.noalias": True, "global_symbol": name})
        held = [stored_as(dtype) for dtype in dtypes]
        pointers = [build.arg(f"p{position}", build.handle(dtype)) for position, dtype in enumerate(held)]
        task = build.arg("task", build.int32())
        sizes = {"float32": 4, "int32": 4, "uint32": 4, "float64": 8, "int64": 8, "uint64": 8, "int16": 2, "uint16": 2}
        buffers = [
            build.decl_buffer((1 << 30,), dtype, data=pointer, align=sizes.get(dtype, 1))
            for dtype, pointer in zip(held, pointers, strict=True)
        ]
        yield buffers, task


def stored_as(dtype: str) -> str:
    """The type of an element in memory."""
    return "uint8" if dtype == "bool" else dtype


def width_of(size: int, lanes: int) -> int:
    """Lanes for a row of ``size`` elements: at most ``lanes``, a power of two that the row fills."""
    width = lanes
    while width > size:
        width //= 2
    return max(1, width)


def read(lanes: Lanes, buffer: Buffer, operand: Operand, start: Expression, stride: int) -> Expression:
    """Elements of an operand as the expression takes them."""
    value = lanes.load_strided(buffer, start, stride)
    return value != lanes.number(0, "uint8") if operand.dtype == "bool" else value


def write(lanes: Lanes, buffer: Buffer, operand: Operand, value: Expression, start: Expression, stride: int) -> None:
    """Elements of a result into memory."""
    value = lanes.cast(value, "uint8") if operand.dtype == "bool" else value
    place = start if lanes.lanes == 1 else tirx.Ramp(start, index(stride), lanes.lanes)
    build.buffer_store(buffer, value, [place])


def evaluate(lanes: Lanes, tree: Sequence[Any], load: Callable[[int], Expression]) -> tuple[Expression, str]:
    """The expression's value and element type. A leaf that is read repeatedly is loaded once by the compiler."""
    kind = tree[0]
    if kind == "number":
        return lanes.number(tree[1], tree[2]), tree[2]
    if kind == "leaf":
        return load(tree[1]), tree[2]
    args = [evaluate(lanes, arg, load) for arg in tree[3]]
    if tree[1] in REPEATING:
        args = [
            (held(lanes, value, dtype), dtype) if arg[0] == "apply" else (value, dtype)
            for arg, (value, dtype) in zip(tree[3], args, strict=True)
        ]
    return apply(lanes, tree[1], tree[2], [value for value, _ in args], args[0][1]), tree[2]


def held(lanes: Lanes, value: Expression, dtype: str) -> Expression:
    """The value kept in a register, so that an operation may name it repeatedly without computing it anew."""
    register = build.alloc_buffer((lanes.lanes,), dtype, scope="local")
    lanes.store(register, value, index(0))
    return lanes.load(register, index(0))


def coordinates(number: Expression, dims: Sequence[int]) -> list[Expression]:
    """A row's number as one index per axis."""
    found: list[Expression] = []
    for dim in reversed(dims):
        found.append(number % dim if len(found) < len(dims) - 1 else number)
        number = number // dim
    return found[::-1]


def offset(where: Sequence[Expression], strides: Sequence[int]) -> Expression:
    """Where an element lies."""
    terms = [one * index(stride) for one, stride in zip(where, strides, strict=False) if stride]
    total = index(0)
    for term in terms:
        total = total + term
    return total


def emit_map(loop: Map, name: str, lanes: int) -> Any:
    """One task: its rows, or its part of the only row."""
    *outer, size = loop.shape
    width = Lanes(width_of(size, lanes))
    step = next(width.lanes * k for k in (UNROLL, 2, 1) if width.lanes * k <= size)
    steps, rows = -(-size // step), prod(outer)
    with IRBuilder() as builder, frame(name, [*(one.dtype for one in loop.operands), loop.result.dtype]) as (buffers, task):

        def block(row: Expression, start: Expression) -> None:
            where = coordinates(row, outer)
            firsts = [offset(where, one.strides) for one in (*loop.operands, loop.result)]
            for j in range(0, step, width.lanes):
                place = start + j

                def load(k: int, place: Expression = place) -> Expression:
                    operand = loop.operands[k]
                    stride = operand.strides[-1]
                    return read(width, buffers[k], operand, firsts[k] + place * index(stride) if stride else firsts[k], stride)

                value, _ = evaluate(width, loop.expression, load)
                stride = loop.result.strides[-1]
                write(width, buffers[-1], loop.result, value, firsts[-1] + place * index(stride), stride)

        if outer:
            chunk = -(-rows // loop.tasks)
            with build.serial(chunk) as r, build.serial(steps) as s:
                block(part(task, r, chunk, rows), first_of(s, step, size))
        else:
            chunk = -(-steps // loop.tasks)
            with build.serial(chunk) as s:
                block(index(0), first_of(part(task, s, chunk, steps), step, size))
    return builder.get()


_START: dict[str, Any] = {"sum": 0, "prod": 1}


def start_of(combine: str, dtype: str) -> Any:
    """The number that a reduction begins with."""
    if combine in _START:
        return _START[combine]
    if dtype.startswith("float"):
        return float("-inf") if combine == "max" else float("inf")
    if dtype == "bool":
        return combine == "min"
    bits, signed = int("".join(filter(str.isdigit, dtype))), not dtype.startswith("uint")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return low if combine == "max" else high


def combined(lanes: Lanes, combine: str, dtype: str, a: Expression, b: Expression) -> Expression:
    """One step of a reduction."""
    name = {"sum": "add", "prod": "mul"}.get(combine, combine)
    return apply(lanes, name, dtype, [a, b], dtype)


def emit_reduce(loop: Reduce, name: str, lanes: int) -> Any:
    """One task: its results, each with a vector of partial results that is combined at the end, or vectors of results."""
    with IRBuilder() as builder, frame(name, [*(one.dtype for one in loop.operands), loop.dtype]) as (buffers, task):
        if loop.across:
            _across(loop, lanes, buffers, task)
        else:
            _along(loop, lanes, buffers, task)
    return builder.get()


def _across(loop: Reduce, lanes: int, buffers: list[Buffer], task: Expression) -> None:
    *outer, size = loop.kept
    width = Lanes(width_of(size, lanes))
    vectors, rows, axis = -(-size // width.lanes), prod(outer), len(loop.kept) - 1
    total = rows * vectors
    chunk = -(-total // loop.tasks)
    with build.serial(chunk) as c:
        number = part(task, c, chunk, total)
        row, start = number // vectors, first_of(number % vectors, width.lanes, size)
        where = coordinates(row, outer)
        firsts = [offset(where, one.strides) + start * index(one.strides[axis]) for one in loop.operands]
        held = build.alloc_buffer((width.lanes,), loop.dtype, scope="local")
        width.store(held, width.number(start_of(loop.combine, loop.dtype), loop.dtype), index(0))
        with build.serial(prod(loop.reduced)) as k:
            inner = coordinates(k, loop.reduced)

            def load(position: int) -> Expression:
                operand = loop.operands[position]
                place = firsts[position] + offset(inner, operand.strides[axis + 1 :])
                return read(width, buffers[position], operand, place, operand.strides[axis])

            value, _ = evaluate(width, loop.expression, load)
            width.store(held, combined(width, loop.combine, loop.dtype, width.load(held, index(0)), value), index(0))
        result = _scaled(width, loop, width.load(held, index(0)))
        write(width, buffers[-1], Operand(loop.dtype, (1,)), result, row * size + start, 1)


def _scaled(width: Lanes, loop: Reduce, value: Expression) -> Expression:
    return value if loop.scale == 1 else value * width.number(loop.scale, loop.dtype)


def _along(loop: Reduce, lanes: int, buffers: list[Buffer], task: Expression) -> None:
    rows, (*outer, size), kept = prod(loop.kept), loop.reduced, len(loop.kept)
    width, one = Lanes(width_of(size, lanes)), Lanes(1)
    whole = size // width.lanes
    chunk = -(-rows // loop.tasks)
    with build.serial(chunk) as c:
        row = part(task, c, chunk, rows)
        where = coordinates(row, loop.kept)
        firsts = [offset(where, operand.strides) for operand in loop.operands]
        held = build.alloc_buffer((width.lanes,), loop.dtype, scope="local")
        width.store(held, width.number(start_of(loop.combine, loop.dtype), loop.dtype), index(0))

        def step(lanes: Lanes, inner: Sequence[Expression], place: Expression) -> None:
            def load(position: int) -> Expression:
                operand = loop.operands[position]
                begin = firsts[position] + offset(inner, operand.strides[kept:-1]) + place * index(operand.strides[-1])
                return read(lanes, buffers[position], operand, begin, operand.strides[-1])

            value, _ = evaluate(lanes, loop.expression, load)
            sums = lanes.load(held, index(0)) if lanes.lanes > 1 else held[index(0)]
            lanes.store(held, combined(lanes, loop.combine, loop.dtype, sums, value), index(0))

        with build.serial(prod(outer)) as k:
            inner = coordinates(k, outer)
            with build.serial(whole) as s:
                step(width, inner, s * width.lanes)
            with build.serial(size - whole * width.lanes) as rest:
                step(one, inner, rest + whole * width.lanes)
        result = _scaled(one, loop, fold(held, width.lanes, lambda a, b: combined(one, loop.combine, loop.dtype, a, b)))
        write(one, buffers[-1], Operand(loop.dtype, (1,)), result, row, 1)


def fold(held: Buffer, count: int, combine: Callable[[Expression, Expression], Expression]) -> Expression:
    """All lanes of a buffer as one number, pairwise."""
    values = [held[index(lane)] for lane in range(count)]
    while len(values) > 1:
        values = [combine(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def emit_rows(loop: Rows, name: str, lanes: int) -> Any:
    """One task: its rows copied."""
    width = Lanes(width_of(loop.size, lanes))
    steps, total = -(-loop.size // width.lanes), loop.outer * loop.count
    chunk = -(-total // loop.tasks)
    with IRBuilder() as builder, frame(name, [loop.dtype, loop.index, loop.dtype]) as (buffers, task), build.serial(chunk) as c:
        number = part(task, c, chunk, total)
        wanted = tirx.Cast("int32", buffers[1][number % loop.count])
        wanted = tirx.Select(wanted < 0, wanted + loop.limit, wanted)
        wanted = tirx.max(index(0), tirx.min(wanted, index(loop.limit - 1)))
        source = (number // loop.count * loop.limit + wanted) * loop.size
        with build.serial(steps) as s:
            start = first_of(s, width.lanes, loop.size)
            value = width.load_strided(buffers[0], source + start, 1)
            place = number * loop.size + start
            build.buffer_store(buffers[2], value, [width.run(place)])
    return builder.get()
