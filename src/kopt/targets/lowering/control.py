"""If, Loop and Scan. Bodies are graphs; what decides a trip count is used while compiling wherever it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import TensorType
from kopt.targets.lowering.registry import Array, LoweringContext, lowers

_UNROLL = 8  # loops of at most this many known trips become straight-line code


def _known(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic)


def _run(ctx: LoweringContext, body: Graph, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """The body's outputs; captures come from the node's surroundings."""
    return ctx.evaluate(body, inputs, {value: ctx.captures[value] for value in body.captures})


def _carry(array: Array, value: Value) -> Array:
    """``array`` as the element type of ``value``, as a jax array, which loops want."""
    kind = value.type.dtype.numpy if isinstance(value.type, TensorType) else array.dtype
    return jnp.asarray(array).astype(kind)


@lowers("If")
def if_(ctx: LoweringContext, condition: Array) -> tuple[Array, ...]:
    """One branch when the condition is known, both in a ``lax.cond`` otherwise."""
    yes, no = ctx.attr("then_branch"), ctx.attr("else_branch")
    if _known(condition):
        return _run(ctx, yes if condition.item() else no, ())
    types = [
        tuple((tuple(value.shape), value.tensor.dtype) if isinstance(value.type, TensorType) else None for value in body.outputs)
        for body in (yes, no)
    ]
    if types[0] != types[1] or None in types[0]:
        raise ctx.unsupported("the condition is only known at run time and the branches give different types")

    def branch(body: Graph) -> Any:
        return lambda: tuple(jnp.asarray(output) for output in _run(ctx, body, ()))

    return tuple(lax.cond(condition.reshape(()), branch(yes), branch(no)))


def _always_true(body: Graph, start: Array | None) -> bool:
    """Whether a loop's condition stays true: a constant in the body, or handed on from a known start."""
    output = body.outputs[0]
    while (producer := body.producer(output)) is not None and producer.op == "Identity" and producer.inputs[0] is not None:
        output = producer.inputs[0]
    if output is body.inputs[1]:
        return start is None or _known(start)
    held = body.constant(output)
    return held is not None and bool(held.item())


def _decides_rows(node: Node) -> frozenset[int]:
    """What makes the number of stacked rows, if a loop stacks any."""
    body = node.attrs["body"]
    return frozenset({0, 1}) if isinstance(body, Graph) and len(body.outputs) > len(body.inputs) - 1 else frozenset()


@lowers("Loop", static=_decides_rows)
def loop(ctx: LoweringContext, trips: Array | None = None, condition: Array | None = None, *carried: Array) -> tuple[Array, ...]:
    """A scan for a known number of trips, a while loop otherwise.

    Raises:
        UnsupportedModelError: stacked outputs of an unknown number of trips.
    """
    body: Graph = ctx.attr("body")
    if condition is not None and _known(condition) and not condition.item():
        trips = np.asarray(0, np.int64)
    if trips is not None and _known(trips) and (trips.item() <= 0 or _always_true(body, condition)):
        return _counted(ctx, body, max(0, int(trips.item())), carried)
    if len(body.outputs) > 1 + len(carried):
        unrolled = _unrolled(ctx, body, trips, condition, carried)
        if unrolled is not None:
            return unrolled
        raise ctx.unsupported("the number of iterations is only known at run time, and so is the size of what it stacks")
    return _while(ctx, body, trips, condition, carried)


def _stacked(rows: Sequence[Array], value: Value) -> Array:
    if rows:
        return jnp.stack([jnp.asarray(row) for row in rows])
    dims = value.tensor.shape or ()
    return jnp.zeros((0, *(dim if isinstance(dim, int) else 0 for dim in dims)), value.tensor.dtype.numpy)


MAX_UNROLLED = 1024
"""Iterations written out at most: a loop without an end must not make a program without one."""


def _unrolled(
    ctx: LoweringContext, body: Graph, trips: Array | None, condition: Array | None, carried: Sequence[Array]
) -> tuple[Array, ...] | None:
    """Straight-line code when trips and every condition come out known; None when one does not."""
    if trips is not None and not _known(trips):
        return None
    count = np.iinfo(np.int64).max if trips is None else int(trips.item())
    going: Any = np.asarray(True) if condition is None else condition
    state, rows, step = list(carried), [], 0
    while True:
        if not _known(going):
            return None
        if not going.item() or step >= count:
            break
        if step >= MAX_UNROLLED:
            return None
        going, *results = _run(ctx, body, (np.asarray(step, np.int64), going, *state))
        state, step = results[: len(carried)], step + 1
        rows.append(results[len(carried) :])
    stacks = body.outputs[1 + len(carried) :]
    return (*state, *(_stacked([row[k] for row in rows], value) for k, value in enumerate(stacks)))


def _counted(ctx: LoweringContext, body: Graph, count: int, carried: Sequence[Array]) -> tuple[Array, ...]:
    """A loop whose number of trips is known; short ones are unrolled."""
    stacks = body.outputs[1 + len(carried) :]
    if count <= _UNROLL or any(value.tensor.dtype.numpy.kind == "O" for value in stacks):
        state, rows = list(carried), []
        for step in range(count):
            results = _run(ctx, body, (np.asarray(step, np.int64), np.asarray(True), *state))
            state = list(results[1 : 1 + len(carried)])
            rows.append(results[1 + len(carried) :])
        return (*state, *(_stacked([row[k] for row in rows], value) for k, value in enumerate(stacks)))

    def step_of(state: tuple[Array, ...], index: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        _, *results = _run(ctx, body, (index, np.asarray(True), *state))
        kept = tuple(map(_carry, results[: len(state)], body.inputs[2:]))
        return kept, tuple(jnp.asarray(result) for result in results[len(state) :])

    start = tuple(map(_carry, carried, body.inputs[2:]))
    state, rows = lax.scan(step_of, start, jnp.arange(count, dtype=np.int64))
    return (*state, *rows)


def _while(ctx: LoweringContext, body: Graph, trips: Array | None, condition: Array | None, carried: Sequence[Array]) -> tuple[Array, ...]:
    """A loop that ends when its condition says so or after ``trips``, both at run time."""
    limit = jnp.asarray(np.iinfo(np.int64).max if trips is None else trips).reshape(()).astype(np.int64)
    going = jnp.asarray(True if condition is None else condition).reshape(()).astype(np.bool_)

    def step_of(state: tuple[Array, ...]) -> tuple[Array, ...]:
        index, alive, *values = state
        again, *results = _run(ctx, body, (index, alive, *values))
        return (index + 1, jnp.asarray(again).reshape(()), *map(_carry, results, body.inputs[2:]))

    start = (jnp.asarray(0, np.int64), going, *map(_carry, carried, body.inputs[2:]))
    return tuple(lax.while_loop(lambda state: (state[0] < limit) & state[1], step_of, start)[2:])


@lowers("Scan")
def scan(ctx: LoweringContext, *arrays: Array) -> tuple[Array, ...]:
    """A ``lax.scan`` over the slices of the last inputs, each along its axis and in its direction."""
    body: Graph = ctx.attr("body")
    num_scanned = int(ctx.attr("num_scan_inputs"))
    num_carried = len(arrays) - num_scanned
    num_stacked = len(body.outputs) - num_carried
    scanned = [jnp.asarray(array) for array in arrays[num_carried:]]
    axes = ctx.attr("scan_input_axes") or (0,) * num_scanned
    ways = ctx.attr("scan_input_directions") or (0,) * num_scanned
    rows = [jnp.moveaxis(x, axis, 0) for x, axis in zip(scanned, axes, strict=True)]
    rows = [x[::-1] if way else x for x, way in zip(rows, ways, strict=True)]

    def step_of(state: tuple[Array, ...], row: list[Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        results = _run(ctx, body, (*state, *row))
        kept = tuple(map(_carry, results[:num_carried], body.inputs))
        return kept, tuple(jnp.asarray(result) for result in results[num_carried:])

    start = tuple(map(_carry, arrays[:num_carried], body.inputs))
    state, stacks = lax.scan(step_of, start, rows)
    axes = ctx.attr("scan_output_axes") or (0,) * num_stacked
    ways = ctx.attr("scan_output_directions") or (0,) * num_stacked
    stacks = [x[::-1] if way else x for x, way in zip(stacks, ways, strict=True)]
    return (*state, *(jnp.moveaxis(x, 0, axis) for x, axis in zip(stacks, axes, strict=True)))
