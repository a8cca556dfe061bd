"""The loop nest of the attention kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from kopt.targets.kernels.attention import Attention
from kopt.targets.kernels.emit import Buffer, Expression, Vectors, function, index
from kopt.targets.kernels.tile import RegisterTile, first_of, part, unrolled

_UNROLL = 4
_LOWEST = -3.0e38  # stands for the largest score of a row without any, so that -inf less it is -inf


@dataclass(frozen=True)
class _Head:
    """Where a task works: batch, head, first column of its query, key and value channels."""

    batch: Expression
    head: Expression
    query: Expression
    key: Expression
    value: Expression


def emit_attention(kernel: Attention, name: str, lanes: int) -> Any:
    """One task: the head's keys turned, then per tile of queries scores, softmax, weighted sum."""
    tiling, vectors = kernel.tiling, Vectors(lanes)
    tiles = -(-kernel.queries // tiling.rows)
    chunk = -(-tiles // tiling.row_tasks)
    with IRBuilder() as builder, function(name, kernel.operands, kernel.result) as (arrays, y, task):
        place = task // tiling.row_tasks
        batch, head = place // kernel.heads, place % kernel.heads
        shared = head // (kernel.heads // kernel.kv_heads)
        at = _Head(batch, head, head * kernel.size, shared * kernel.size, shared * kernel.value_size)
        turned = build.alloc_buffer((kernel.size, kernel.padded_keys), "float32", scope="local")
        scores = build.alloc_buffer((tiling.rows, kernel.padded_keys), "float32", scope="local")
        inverse = build.alloc_buffer((tiling.rows,), "float32", scope="local")
        _turn_keys(kernel, arrays[1], turned, at)
        with build.serial(chunk) as t:
            row = first_of(part(task % tiling.row_tasks, t, chunk, tiles), tiling.rows, kernel.queries)
            _scores(kernel, vectors, arrays, (turned, scores), at, row)
            with build.serial(tiling.rows) as i:
                _softmax(kernel, vectors, scores, inverse, i)
            _weighted(kernel, vectors, arrays[2], (scores, inverse), y, at, row)
    return builder.get()


def _turn_keys(kernel: Attention, k: Buffer, turned: Buffer, at: _Head) -> None:
    """turned[d, key] = k[key, d]; zeros for the keys of padding."""
    with build.serial(kernel.keys) as key, build.serial(kernel.size) as d:
        build.buffer_store(turned, k[at.batch, key, at.key + d], [d, key])
    with build.serial(kernel.size) as d, build.serial(kernel.padded_keys - kernel.keys) as rest:
        build.buffer_store(turned, tirx.const(0.0, "float32"), [d, rest + kernel.keys])


def _scores(kernel: Attention, vectors: Vectors, arrays: list[Buffer], kept: tuple[Buffer, Buffer], at: _Head, row: Expression) -> None:
    """scores[i, key] = q[i] . k[key] * scale + mask[i, key]; -inf for the keys of padding."""
    tiling, (turned, scores) = kernel.tiling, kept
    with build.serial(-(-kernel.padded_keys // tiling.keys)) as p:
        first = first_of(p, tiling.keys, kernel.padded_keys)
        tile = RegisterTile(vectors, tiling.rows, tiling.keys)
        tile.start(None)

        def step(d: Expression) -> None:
            tile.multiply(lambda i: arrays[0][at.batch, row + i, at.query + d], lambda j: vectors.load(turned, d, first + j))

        unrolled(kernel.size, _UNROLL, step)

        def store(i: int, j: int, value: Expression) -> None:
            value = value * vectors.constant(kernel.scale)
            if kernel.mask:
                chosen = (at.batch, at.head, row + i)
                where = [one if size > 1 else index(0) for one, size in zip(chosen, kernel.mask, strict=True)]
                value = value + vectors.load(arrays[3], *where, first + j)
            vectors.store(scores, value, index(i), first + j)

        tile.finish(None, None, store)
    for i in range(0 if kernel.mask else tiling.rows):
        for key in range(kernel.keys, kernel.padded_keys):
            build.buffer_store(scores, tirx.const(float("-inf"), "float32"), [index(i), index(key)])


def _softmax(kernel: Attention, vectors: Vectors, scores: Buffer, inverse: Buffer, i: Expression) -> None:
    """scores[i] = exp(scores[i] - largest), and inverse[i] = 1 / their sum."""
    steps, zero = kernel.padded_keys // vectors.lanes, index(0)
    peaks, sums = (build.alloc_buffer((vectors.lanes,), "float32", scope="local") for _ in range(2))
    vectors.store(peaks, vectors.constant(_LOWEST), zero)
    with build.serial(steps) as step:
        vectors.store(peaks, tirx.max(vectors.load(peaks, zero), vectors.load(scores, i, step * vectors.lanes)), zero)
    largest = build.alloc_buffer((1,), "float32", scope="local")
    build.buffer_store(largest, _combined(peaks, vectors.lanes, tirx.max), [zero])
    vectors.store(sums, vectors.constant(0.0), zero)
    with build.serial(steps) as step:
        where = (i, step * vectors.lanes)
        vectors.store(scores, vectors.exp(vectors.load(scores, *where) - vectors.broadcast(largest[zero])), *where)
        vectors.store(sums, vectors.load(sums, zero) + vectors.load(scores, *where), zero)
    total = build.alloc_buffer((1,), "float32", scope="local")
    build.buffer_store(total, _combined(sums, vectors.lanes, lambda a, b: a + b), [zero])
    one, none = tirx.const(1.0, "float32"), tirx.const(0.0, "float32")
    build.buffer_store(inverse, tirx.Select(tirx.EQ(total[zero], none), none, one / total[zero]), [i])


def _combined(lanes: Buffer, count: int, combine: Callable[[Expression, Expression], Expression]) -> Expression:
    """All lanes as one number, pairwise."""
    values = [lanes[index(lane)] for lane in range(count)]
    while len(values) > 1:
        values = [combine(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def _weighted(kernel: Attention, vectors: Vectors, v: Buffer, kept: tuple[Buffer, Buffer], y: Buffer, at: _Head, row: Expression) -> None:
    """y[i] = sum over keys of scores[i, key] * v[key], times one over the sum of the row."""
    tiling, (scores, inverse) = kernel.tiling, kept
    with build.serial(-(-kernel.value_size // tiling.panel)) as p:
        first = first_of(p, tiling.panel, kernel.value_size)
        tile = RegisterTile(vectors, tiling.rows, tiling.panel)
        tile.start(None)

        def step(key: Expression) -> None:
            tile.multiply(lambda i: scores[index(i), key], lambda j: vectors.load(v, at.batch, key, at.value + first + j))

        unrolled(kernel.keys, _UNROLL, step)

        def store(i: int, j: int, value: Expression) -> None:
            value = value * vectors.broadcast(inverse[index(i)])
            vectors.store(y, value, at.batch, row + i, at.head * kernel.value_size + first + j)

        tile.finish(None, None, store)
