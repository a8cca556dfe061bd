"""Types at the borders of control-flow bodies: what a body is fed, and what its node makes of the body's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kopt.errors import InvalidModelError
from kopt.ir.graph import Attr, Graph, Node
from kopt.ir.types import Dim, DType, SequenceType, TensorType, Type

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""ai.onnx operators whose output types follow from their bodies."""


def body_inputs(op: str, attrs: Mapping[str, Attr], inputs: Sequence[Type | None]) -> list[Type | None]:
    """What a body's inputs are, by position, as far as the node tells; of Loop, on the first iteration."""
    if op == "Loop":
        return [TensorType(DType.I64, ()), TensorType(DType.BOOL, ()), *inputs[2:]]
    if op == "Scan":
        count = _count(attrs, len(inputs))
        axes = _ints(attrs.get("scan_input_axes")) or [0] * count
        states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
        return [*states, *(_without_axis(type_, axis) for type_, axis in zip(scanned, axes, strict=False))]
    if op == "SequenceMap":
        return [type_.element if isinstance(type_, SequenceType) else type_ for type_ in inputs]
    return []


def check_borders(node: Node) -> None:
    """Bodies take and make as many values as their node feeds and hands out.

    Raises:
        InvalidModelError: they do not, or axes of scanned values do not exist.
    """
    bodies = list(node.subgraphs())
    deciding = {"If": node.inputs[:1], "Loop": node.inputs[:2]}.get(node.op, ())
    for value in deciding:
        type_ = value.type if value is not None else None
        if isinstance(type_, TensorType) and type_.is_static and type_.size != 1:
            raise InvalidModelError(
                f"{node.op} needs one value to decide by, not {type_}", where=node.loc, next_step="see the operator's ONNX specification"
            )
    fed, made = len(node.inputs), len(node.outputs)
    if node.op == "If":
        expected, least = 0, max(made, *(len(body.outputs) for body in bodies))
    elif node.op == "Loop":
        expected, least = max(fed, 2), 1 + max(fed - 2, 0)
    elif node.op == "Scan":
        expected, least = fed, _check_scan(node, bodies[0])
    else:
        expected, least = fed, made
    for body in bodies:
        if len(body.inputs) != expected or len(body.outputs) < least:
            raise InvalidModelError(
                f"a body of {node.op} takes {len(body.inputs)} values and makes {len(body.outputs)}, "
                f"but its node needs one that takes {expected} and makes {least} or more",
                where=node.loc,
                next_step="export the model again",
            )


def _check_scan(node: Node, body: Graph) -> int:
    """The number of states."""
    count = node.attrs.get("num_scan_inputs")
    if not isinstance(count, int) or not 0 < count <= len(node.inputs):
        raise InvalidModelError(
            f"Scan has {len(node.inputs)} inputs and scans {count!r}", where=node.loc, next_step="export the model again"
        )
    states = len(node.inputs) - count
    for kind, wanted, values in (("input", count, body.inputs[states:]), ("output", len(body.outputs) - states, body.outputs[states:])):
        axes, directions = _ints(node.attrs.get(f"scan_{kind}_axes")), _ints(node.attrs.get(f"scan_{kind}_directions"))
        ranks = [
            len(type_.shape) + 1 if isinstance(type_ := value.type, TensorType) and type_.shape is not None else 64 for value in values
        ]
        fitting = len(axes) in (0, wanted) and len(directions) in (0, wanted) and all(item in (0, 1) for item in directions)
        if not fitting or any(not -rank <= axis < rank for axis, rank in zip(axes, ranks, strict=False)):
            raise InvalidModelError(
                f"Scan has {wanted} scanned {kind}s, which axes {axes} and directions {directions} do not fit",
                where=node.loc,
                next_step="see the operator's ONNX specification",
            )
    return states


def output_types(node: Node) -> list[Type]:
    """Output types of a node of ``CONTROL_FLOW``; "?" stands for dimensions that only running tells."""
    bodies = list(node.subgraphs())
    made = [value.type for value in bodies[0].outputs]
    if node.op == "If":
        return [generalise(first, second.type) for first, second in zip(made, bodies[1].outputs, strict=False)]
    if node.op == "SequenceMap":
        return [SequenceType(type_) for type_ in made]
    if node.op == "Loop":
        count = max(len(node.inputs) - 2, 0)
        carried = [generalise(value.type, type_) for value, type_ in zip(bodies[0].inputs[2:], made[1 : 1 + count], strict=False)]
        return [*carried, *(_with_axis(type_, 0, "?") for type_ in made[1 + count :])]
    scanned = _count(node.attrs, len(node.inputs))
    states, stacked = made[: len(node.inputs) - scanned], made[len(node.inputs) - scanned :]
    axes = _ints(node.attrs.get("scan_output_axes")) or [0] * len(stacked)
    length = _scan_length(node, scanned)
    return [*states, *(_with_axis(type_, axis, length) for type_, axis in zip(stacked, axes, strict=False))]


def widened(fed: Sequence[Type | None], body: Graph, opened: set[str]) -> list[Type | None] | None:
    """What to feed a Loop's body instead, given what it makes when fed with ``fed``; None where it makes the same again.

    Args:
        fed: types of the body's inputs.
        body: the body read with these types.
        opened: names of dimensions that stand for any number already.
    """
    wider: list[Type | None] = list(fed[:2])
    changed = False
    for value, result in zip(body.inputs[2:], body.outputs[1:], strict=False):
        new = generalise(value.type, result.type, opened)
        changed = changed or new != value.type
        wider.append(new)
    return wider if changed else None


def generalise(first: Type, second: Type, opened: set[str] | frozenset[str] = frozenset()) -> Type:
    """A type that holds the values of both; "?" where their dimensions differ, unless the first is in ``opened`` already."""
    if not isinstance(first, TensorType) or not isinstance(second, TensorType):
        return first
    if first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
        return TensorType(first.dtype, None)
    return TensorType(first.dtype, tuple(a if a == b or a in opened else "?" for a, b in zip(first.shape, second.shape, strict=True)))


def _scan_length(node: Node, scanned: int) -> Dim:
    axes = _ints(node.attrs.get("scan_input_axes")) or [0] * scanned
    lengths: list[Dim] = []
    for value, axis in zip(node.inputs[len(node.inputs) - scanned :], axes, strict=False):
        if (
            value is not None
            and isinstance(value.type, TensorType)
            and value.type.shape
            and -len(value.type.shape) <= axis < len(value.type.shape)
        ):
            lengths.append(value.type.shape[axis])
    return next((length for length in lengths if isinstance(length, int)), lengths[0] if lengths else "?")


def _count(attrs: Mapping[str, Attr], num_inputs: int) -> int:
    """The number of scanned inputs, never more than there are inputs."""
    count = attrs.get("num_scan_inputs")
    return min(max(count, 0), num_inputs) if isinstance(count, int) else 0


def _ints(attr: Attr | None) -> list[int]:
    return [item for item in attr if isinstance(item, int)] if isinstance(attr, tuple) else []


def _with_axis(type_: Type, axis: int, dim: Dim) -> Type:
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    at = axis + len(type_.shape) + 1 if axis < 0 else axis
    return TensorType(type_.dtype, (*type_.shape[:at], dim, *type_.shape[at:]))


def _without_axis(type_: Type | None, axis: int) -> Type | None:
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    at = axis + len(type_.shape) if axis < 0 else axis
    return TensorType(type_.dtype, type_.shape[:at] + type_.shape[at + 1 :])
