"""If, Loop, Scan and SequenceMap on the host, around bodies that compile what they can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kopt.errors import InputError
from kopt.hardware import Target
from kopt.ir.graph import Node, Value
from kopt.ir.types import TensorType
from kopt.segments.body import Body
from kopt.specialize import Recipe

MAX_ITERATIONS = 1 << 20
"""A loop on the host that goes on longer is taken for one without an end."""

Step = Callable[[Sequence[Any]], Sequence[Any]]


def control_step(node: Node, recipe: Recipe, target: Target) -> Step:
    """A control-flow node as a function of its inputs followed by what its bodies capture."""
    bodies = [Body(body, recipe, target) for body in node.subgraphs()]
    run = {"If": _if, "Loop": _loop, "Scan": _scan, "SequenceMap": _sequence_map}[node.op]
    count = len(node.inputs)
    return lambda values: run(node, bodies, values[:count], values[count:])


def _one(value: Any, node: Node) -> Any:
    """The only element of what decides where a node goes on."""
    array = np.asarray(value)
    if array.size != 1:
        raise InputError(
            f"{node.op} needs one value to decide by, not {array.size}", where=str(node.loc), next_step="see the operator's specification"
        )
    return array.item()


def _if(node: Node, bodies: Sequence[Body], inputs: Sequence[Any], captured: Sequence[Any]) -> Sequence[Any]:
    """One branch only runs; attribute order decides which body comes first."""
    wanted = node.attrs["then_branch" if bool(_one(inputs[0], node)) else "else_branch"]
    start = 0
    for body in bodies:
        size = len(body.body.captures)
        if body.body is wanted:
            return body((), captured[start : start + size])
        start += size
    raise ValueError("If lacks a branch")


def _loop(node: Node, bodies: Sequence[Body], inputs: Sequence[Any], captured: Sequence[Any]) -> Sequence[Any]:
    """Iterations one by one; what they stack may grow without a bound known before."""
    body = bodies[0]
    trips = None if not inputs or inputs[0] is None else int(_one(inputs[0], node))
    going = len(inputs) < 2 or inputs[1] is None or bool(_one(inputs[1], node))
    carried, rows, step = list(inputs[2:]), [], 0
    while going and (trips is None or step < trips):
        if step >= MAX_ITERATIONS:
            raise InputError(f"the loop has not ended after {step} iterations", where=str(node.loc), next_step="check its condition")
        again, *results = body((np.asarray(step, np.int64), np.asarray(going), *carried), captured)
        going, step = bool(_one(again, node)), step + 1
        carried = results[: len(carried)]
        rows.append(results[len(carried) :])
    stacked = body.body.outputs[1 + len(carried) :]
    return (*carried, *(_stack([row[k] for row in rows], value, 0) for k, value in enumerate(stacked)))


def _scan(node: Node, bodies: Sequence[Body], inputs: Sequence[Any], captured: Sequence[Any]) -> Sequence[Any]:
    """One iteration for each slice of the scanned inputs."""
    body, num_scanned = bodies[0], int(node.attrs["num_scan_inputs"])  # type: ignore[arg-type]
    states, scanned = list(inputs[: len(inputs) - num_scanned]), inputs[len(inputs) - num_scanned :]
    axes = _ints(node, "scan_input_axes", num_scanned)
    ways = _ints(node, "scan_input_directions", num_scanned)
    sources = [np.moveaxis(item, axis, 0)[:: -1 if way else 1] for item, axis, way in zip(scanned, axes, ways, strict=True)]
    rows = []
    for slices in zip(*sources, strict=True):
        results = body((*states, *map(np.asarray, slices)), captured)
        rows.append(results[len(states) :])
        states = results[: len(states)]
    made = body.body.outputs[len(states) :]
    axes, ways = _ints(node, "scan_output_axes", len(made)), _ints(node, "scan_output_directions", len(made))
    stacks = [
        _stack([row[k] for row in rows][:: -1 if way else 1], value, axis)
        for k, (value, axis, way) in enumerate(zip(made, axes, ways, strict=True))
    ]
    return (*states, *stacks)


def _sequence_map(_: Node, bodies: Sequence[Body], inputs: Sequence[Any], captured: Sequence[Any]) -> Sequence[Any]:
    """The body for each member of the first sequence, with the same member of other sequences; tensors are the same for all."""
    first, *others = inputs
    made: list[list[Any]] = [[] for _ in bodies[0].body.outputs]
    for k, member in enumerate(first):
        given = [other[k] if isinstance(other, list) else other for other in others]
        for sequence, item in zip(made, bodies[0]((member, *given), captured), strict=True):
            sequence.append(item)
    return made


def _stack(rows: Sequence[Any], value: Value, axis: int) -> Any:
    if rows:
        return np.stack([np.asarray(row) for row in rows], axis)
    type_ = value.type
    dims = [dim if isinstance(dim, int) else 0 for dim in (type_.shape or ())] if isinstance(type_, TensorType) else []
    dims.insert(axis if axis >= 0 else axis + len(dims) + 1, 0)
    return np.zeros(dims, type_.dtype.numpy if isinstance(type_, TensorType) else np.float32)


def _ints(node: Node, name: str, count: int) -> list[int]:
    found = node.attrs.get(name)
    return [int(item) for item in found] if isinstance(found, tuple) and found else [0] * count  # type: ignore[arg-type]
