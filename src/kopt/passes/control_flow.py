"""Types of If, Loop and Scan: bodies are walked again with the types their inputs now have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kopt.ir.graph import Attr, Graph, Node, Value
from kopt.ir.types import Dim, DType, TensorType, Type

if TYPE_CHECKING:
    from kopt.passes.sweep import Sweep

_MAX_LOOP_ROUNDS = 4  # each round opens at least one dimension of a carried value or is the last


def visit(sweep: Sweep, node: Node) -> None:
    """Add a node that holds bodies to the sweep's graph."""
    inputs = tuple(None if value is None else sweep.replaced.get(value, value) for value in node.inputs)
    current = node if inputs == node.inputs else node.replace(inputs=inputs)
    if node.domain or node.op not in ("If", "Loop", "Scan"):
        fed = [value.type for value in current.inputs if value is not None] if node.op == "Gradient" else None
        _rebuild(sweep, current, node, {name: _walk_attr(sweep, attr, fed) for name, attr in current.attrs.items()}, None)
    elif node.op == "If":
        _visit_if(sweep, current, node)
    elif node.op == "Loop":
        _visit_loop(sweep, current, node)
    else:
        _visit_scan(sweep, current, node)


def _walk_attr(sweep: Sweep, attr: Attr, fed: Sequence[Type] | None) -> Attr:
    if isinstance(attr, Graph):
        return sweep.body(attr, fed or [None] * len(attr.inputs))
    return attr


def _rebuild(sweep: Sweep, current: Node, original: Node, attrs: dict[str, Attr], types: Sequence[Type] | None) -> None:
    if any(new is not current.attrs[name] for name, new in attrs.items()):
        current = current.replace(attrs={**current.attrs, **attrs})
    sweep.emit(current, original, types)


def _visit_if(sweep: Sweep, current: Node, original: Node) -> None:
    condition = current.inputs[0]
    constant = None if condition is None else sweep.constants.get(condition)
    if constant is not None and constant.type.size == 1:
        taken = current.attrs["then_branch" if constant.array().item() else "else_branch"]
        if isinstance(taken, Graph):
            sweep.ctx.applied("inline-if")
            sweep.inline(taken, (), original)
            return
    bodies = {name: body for name, body in current.attrs.items() if isinstance(body, Graph)}
    walked: dict[str, Attr] = {name: sweep.body(body, ()) for name, body in bodies.items()}
    first, second = (body for body in walked.values() if isinstance(body, Graph))
    types = [generalise(sweep, a.type, b.type) for a, b in zip(first.outputs, second.outputs, strict=True)]
    _rebuild(sweep, current, original, walked, types)


def _visit_loop(sweep: Sweep, current: Node, original: Node) -> None:
    body = current.attrs["body"]
    if not isinstance(body, Graph):
        sweep.emit(current, original, None)
        return
    carried: list[Type] = [value.type for value in current.inputs[2:] if value is not None]
    walked = body
    for _ in range(_MAX_LOOP_ROUNDS):
        walked = sweep.body(body, [TensorType(DType.I64, ()), TensorType(DType.BOOL, ()), *carried])
        results = [value.type for value in walked.outputs[1 : 1 + len(carried)]]
        wider = [generalise(sweep, a, b) for a, b in zip(carried, results, strict=True)]
        if wider == carried:
            break
        carried = [_open(a, b) for a, b in zip(carried, wider, strict=True)]
    count = _trip_count(sweep, current, walked)
    stacked = [_stack(value.type, count, 0) for value in walked.outputs[1 + len(carried) :]]
    _rebuild(sweep, current, original, {"body": walked}, [*carried, *stacked])


def _trip_count(sweep: Sweep, node: Node, body: Graph) -> Dim:
    """The number of iterations where it does not depend on values; "?" otherwise."""
    limit = node.inputs[0]
    constant = None if limit is None else sweep.constants.get(limit)
    start = node.inputs[1]
    starts = start is None or (start in sweep.constants and bool(sweep.constants[start].array().all()))
    goes_on = body.outputs[0]
    always = goes_on in body.constants and bool(body.constants[goes_on].array().all())
    unchanged = goes_on is body.inputs[1] or _is_copy(body, goes_on, body.inputs[1])
    if constant is None or not starts or not (always or unchanged):
        return "?"
    return max(int(constant.array().item()), 0)


def _is_copy(body: Graph, value: Value, source: Value) -> bool:
    producer = body.producer(value)
    while producer is not None and producer.op == "Identity" and not producer.domain and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = body.producer(value)
    return value is source or (value in body.constants and bool(body.constants[value].array().all()))


def _visit_scan(sweep: Sweep, current: Node, original: Node) -> None:
    body = current.attrs["body"]
    count = current.attrs["num_scan_inputs"]
    if not isinstance(body, Graph) or not isinstance(count, int) or any(value is None for value in current.inputs):
        sweep.emit(current, original, None)
        return
    inputs = [value for value in current.inputs if value is not None]
    states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    axes = _ints(current.attrs.get("scan_input_axes")) or [0] * count
    length: Dim = "?"
    slices: list[Type] = []
    for value, axis in zip(scanned, axes, strict=True):
        slices.append(_unstack(value.type, axis))
        shape = value.tensor.shape
        if shape is not None and shape and (length == "?" or isinstance(shape[axis], int)):
            length = shape[axis]
    walked = sweep.body(body, [*(value.type for value in states), *slices])
    results = [generalise(sweep, a.type, b.type) for a, b in zip(states, walked.outputs, strict=False)]
    stacked = walked.outputs[len(states) :]
    out_axes = _ints(current.attrs.get("scan_output_axes")) or [0] * len(stacked)
    stacks = [_stack(value.type, length, axis) for value, axis in zip(stacked, out_axes, strict=True)]
    _rebuild(sweep, current, original, {"body": walked}, [*results, *stacks])


def _ints(attr: Attr | None) -> list[int]:
    return [int(item) for item in attr if isinstance(item, int)] if isinstance(attr, tuple) else []


def _stack(type_: Type, count: Dim, axis: int) -> Type:
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    at = axis + len(type_.shape) + 1 if axis < 0 else axis
    return TensorType(type_.dtype, (*type_.shape[:at], count, *type_.shape[at:]))


def _unstack(type_: Type, axis: int) -> Type:
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    at = axis + len(type_.shape) if axis < 0 else axis
    return TensorType(type_.dtype, type_.shape[:at] + type_.shape[at + 1 :])


def generalise(sweep: Sweep, a: Type, b: Type) -> Type:
    """The most precise type that holds values of both types."""
    if a == b or not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return a
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return TensorType(a.dtype, None)
    return TensorType(a.dtype, tuple(x if x == y or _is_open(x) else sweep.fresh_dim() for x, y in zip(a.shape, b.shape, strict=True)))


def _is_open(dim: Dim) -> bool:
    """Whether a dimension stands for any number: one that a loop's carried value was given."""
    return isinstance(dim, str) and dim.startswith("?k")


def _open(old: Type, wider: Type) -> Type:
    return wider if wider != old else old
