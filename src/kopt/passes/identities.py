"""Nodes that return what they were given: one small function per operator, ``before ==> after`` in its docstring.

A rule gets the node and a view of the graph built so far. It returns the value to use instead of the node's first output,
a node to put in its place, or None to keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kopt.ir.constant import Constant
from kopt.ir.graph import Node, Value
from kopt.ir.types import TensorType


@dataclass
class View:
    """What a rule may look at.

    Attributes:
        constants: known values, those of enclosing graphs included.
        producers: the nodes kept so far, by output.
        read: values that something reads.
        new_constant: adds a constant to the graph under construction.
    """

    constants: Mapping[Value, Constant]
    producers: Mapping[Value, Node]
    read: set[Value]
    new_constant: Callable[[np.ndarray, str], Value]

    def array(self, value: Value | None) -> np.ndarray | None:
        """The array of a small constant, or None."""
        found = None if value is None else self.constants.get(value)
        return found.array() if found is not None and found.type.size <= 4096 else None

    def producer(self, value: Value | None, *ops: str) -> Node | None:
        """The node that makes ``value``, if it is one of ``ops`` of the standard."""
        node = None if value is None else self.producers.get(value)
        return node if node is not None and not node.domain and node.op in ops else None


Simplification: TypeAlias = "Callable[[Node, View], Value | Node | None]"
SIMPLIFICATIONS: dict[str, Simplification] = {}


def simplifies(*ops: str) -> Callable[[Simplification], Simplification]:
    """Register a rule for operators of the standard."""

    def register(function: Simplification) -> Simplification:
        for op in ops:
            SIMPLIFICATIONS[op] = function
        return function

    return register


@simplifies("Identity")
def identity(node: Node, _: View) -> Value | None:
    """Identity(x) ==> x."""
    return node.inputs[0]


@simplifies("Dropout")
def dropout(node: Node, view: View) -> Value | None:
    """Dropout(x) outside of training, mask unread ==> x."""
    training = node.input(2)
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if training is not None:
        known = view.array(training)
        if known is None or known.any():
            return None
    return None if mask is not None and mask in view.read else node.inputs[0]


@simplifies("Cast", "CastLike")
def cast(node: Node, _: View) -> Value | None:
    """Cast(x) to the type x has ==> x."""
    source, target = node.inputs[0], node.outputs[0]
    if source is None or target is None or not isinstance(source.type, TensorType) or not isinstance(target.type, TensorType):
        return None
    return source if source.type.dtype is target.type.dtype else None


@simplifies("Transpose")
def transpose(node: Node, view: View) -> Value | Node | None:
    """Transpose(Transpose(x, p), q) ==> Transpose(x, p∘q), and Transpose(x, identity) ==> x."""
    source = node.inputs[0]
    if source is None or source.tensor.rank is None:
        return None
    perm = _perm(node, source.tensor.rank)
    if perm == list(range(len(perm))):
        return source
    inner = view.producer(source, "Transpose")
    if inner is None or inner.inputs[0] is None:
        return None
    combined = [_perm(inner, len(perm))[axis] for axis in perm]
    if combined == list(range(len(perm))):
        return inner.inputs[0]
    return node.replace(inputs=(inner.inputs[0],), attrs={"perm": tuple(combined)}, loc=inner.loc.merge(node.loc))


def _perm(node: Node, rank: int) -> list[int]:
    perm = node.attrs.get("perm")
    return [int(axis) for axis in perm] if isinstance(perm, tuple) and perm else list(range(rank))[::-1]  # type: ignore[arg-type]


_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@simplifies(*_RESHAPES)
def reshape(node: Node, view: View) -> Value | Node | None:
    """Reshape(x) to the shape x has ==> x, and Reshape(Reshape(x)) ==> Reshape(x).

    Flatten, Squeeze and Unsqueeze count as Reshape.
    """
    source = node.inputs[0]
    if source is None:
        return None
    if _same_order_and_shape(source.tensor, node.output.tensor):
        return source
    inner = view.producer(source, *_RESHAPES)
    if inner is None or inner.inputs[0] is None:
        return None
    if _same_order_and_shape(inner.inputs[0].tensor, node.output.tensor):
        return inner.inputs[0]
    loc = inner.loc.merge(node.loc)
    if node.op == "Reshape":
        target = view.array(node.inputs[1])
        if target is not None and (target > 0).sum() + (target == -1).sum() == target.size:
            return node.replace(inputs=(inner.inputs[0], node.inputs[1]), loc=loc)
    shape = node.output.tensor.shape
    if shape is None or sum(isinstance(dim, str) for dim in shape) > 1 or 0 in shape:
        return None
    wanted = np.asarray([-1 if isinstance(dim, str) else dim for dim in shape], np.int64)
    value = view.new_constant(wanted, f"{node.output.name}_shape")
    return node.replace(op="Reshape", inputs=(inner.inputs[0], value), attrs={"allowzero": 0}, loc=loc)


def _same_order_and_shape(a: TensorType, b: TensorType) -> bool:
    """Whether a row-major reshape from ``a`` to ``b`` changes nothing.

    One symbolic dimension at the same place is fine whatever its name: the number of elements decides it.
    """
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    open_axes = [axis for axis, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)) if isinstance(x, str) or isinstance(y, str)]
    if len(open_axes) > 1 or (open_axes and 0 in (*a.shape, *b.shape)):
        return False
    if any(not (isinstance(a.shape[axis], str) and isinstance(b.shape[axis], str)) for axis in open_axes):
        return False
    return all(x == y for axis, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)) if axis not in open_axes)


@simplifies("Pad")
def pad(node: Node, view: View) -> Value | None:
    """Pad(x, 0) ==> x."""
    pads = view.array(node.inputs[1])
    return node.inputs[0] if pads is not None and not pads.any() else None


@simplifies("Slice")
def slice_(node: Node, view: View) -> Value | None:
    """Slice(x) of everything ==> x."""
    source = node.inputs[0]
    starts, ends, steps = (view.array(node.input(k)) for k in (1, 2, 4))
    if source is None or (node.input(4) is not None and (steps is None or (steps != 1).any())):
        return None
    if source.tensor.is_static and source.type == node.output.type:
        return source
    if starts is not None and ends is not None and not starts.any() and (ends >= 2**31 - 1).all():
        return source
    return None


@simplifies("Concat", "Sum", "Max", "Min", "Mean")
def single_input(node: Node, view: View) -> Value | None:
    """Concat(x) ==> x, and Concat(Split(x)) along one axis ==> x."""
    if len(node.inputs) == 1:
        return node.inputs[0]
    first = node.inputs[0]
    if node.op != "Concat" or first is None:
        return None
    split = view.producer(first, "Split")
    if split is None or split.outputs != node.inputs or split.inputs[0] is None or first.tensor.rank is None:
        return None
    axes = [int(part.attrs["axis"]) % first.tensor.rank for part in (split, node)]  # type: ignore[arg-type]
    return split.inputs[0] if axes[0] == axes[1] else None


@simplifies("Split")
def split(node: Node, _: View) -> Value | None:
    """Split(x) into one part ==> x."""
    return node.inputs[0] if len(node.outputs) == 1 else None


@simplifies("Add", "Mul")
def neutral_either(node: Node, view: View) -> Value | None:
    """Add(x, 0) ==> x, Add(0, x) ==> x, Mul(x, 1) ==> x, Mul(1, x) ==> x, where the shape stays."""
    neutral = 0 if node.op == "Add" else 1
    for value, other in (node.inputs, node.inputs[::-1]):
        if _is_neutral(value, other, neutral, node, view):
            return value
    return None


@simplifies("Sub", "Div", "Pow")
def neutral_right(node: Node, view: View) -> Value | None:
    """Sub(x, 0) ==> x, Div(x, 1) ==> x, Pow(x, 1) ==> x, where the shape stays."""
    value, other = node.inputs
    return value if _is_neutral(value, other, 0 if node.op == "Sub" else 1, node, view) else None


def _is_neutral(value: Value | None, other: Value | None, neutral: int, node: Node, view: View) -> bool:
    array = view.array(other)
    if value is None or array is None or array.dtype == object or not array.size or not (array == neutral).all():
        return False
    rank = value.tensor.rank
    if value.tensor.is_static and value.type == node.output.type:
        return True
    return rank is not None and array.size == 1 and array.ndim <= rank and value.tensor.dtype is node.output.tensor.dtype


@simplifies("Expand", "Tile")
def expand(node: Node, view: View) -> Value | None:
    """Expand(x, 1) ==> x, Tile(x, 1) ==> x, Expand(x) to the shape x has ==> x."""
    source, target = node.inputs[0], view.array(node.inputs[1])
    if source is None:
        return None
    if source.tensor.is_static and source.type == node.output.type:
        return source
    rank = source.tensor.rank
    return source if target is not None and rank is not None and target.size <= rank and (target == 1).all() else None


@simplifies("Where")
def where(node: Node, view: View) -> Value | None:
    """Where(true, a, b) ==> a, Where(false, a, b) ==> b, where the shape stays."""
    condition = view.array(node.inputs[0])
    if condition is None or not condition.size or condition.any() != condition.all():
        return None
    chosen = node.inputs[1] if condition.all() else node.inputs[2]
    return chosen if chosen is not None and chosen.tensor.is_static and chosen.type == node.output.type else None
