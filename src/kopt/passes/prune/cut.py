"""Cutting units out of a graph: constants and shapes shrink, everything else stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from kopt.errors import InvalidModelError, PassError
from kopt.ir import spec
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Node, Value, node_reads
from kopt.ir.surgery import Names
from kopt.ir.types import Dim, TensorType
from kopt.passes.prune.groups import Dependencies

Kept = np.ndarray
"""Coordinates that remain, i64."""


def cut(found: Dependencies, removed: Collection[int]) -> Graph:
    """The graph without some of its units.

    Its outputs are those of the original with zeros in every place of a removed unit that a node sums over.

    Args:
        found: the groups of a graph.
        removed: units of those groups.

    Raises:
        PassError: a node does not take its shrunken inputs (a defect of kopt).
    """
    return _Cut(found, removed).graph() if removed else found.graph


def kept_coordinates(units: np.ndarray | None, removed: Collection[int]) -> Kept | None:
    """The coordinates of an axis that remain; None where all do."""
    if units is None:
        return None
    stays = ~np.isin(units, np.fromiter(removed, np.int64, len(removed)))
    return None if stays.all() else np.flatnonzero(stays)


class _Cut:
    """One sweep over the nodes that builds the smaller graph."""

    def __init__(self, found: Dependencies, removed: Collection[int]) -> None:
        self.found = found
        self.removed = frozenset(removed)
        self.names = Names.of(found.graph)
        self.values: dict[Value, Value] = {}
        self.constants: dict[Value, Constant] = {}

    def graph(self) -> Graph:
        """The smaller graph."""
        graph = self.found.graph
        for value, constant in graph.constants.items():
            self._constant(value, constant)
        nodes = tuple(self._node(node) for node in graph.nodes)
        read = {value for node in nodes for value in node_reads(node)}
        kept = {value: constant for value, constant in self.constants.items() if value in read or value in graph.outputs}
        return graph.replace(nodes=nodes, constants=kept)

    def kept(self, value: Value, axis: int) -> Kept | None:
        """The coordinates of an axis that remain; None where all do."""
        axes = self.found.axes.get(value, ())
        return kept_coordinates(axes[axis], self.removed) if axis < len(axes) else None

    def ints(self, array: np.ndarray, hint: str) -> Value:
        """A new constant of int64."""
        constant = Constant.of(np.asarray(array, np.int64))
        value = Value(self.names.fresh(hint), constant.type)
        self.constants[value] = constant
        return value

    def _constant(self, value: Value, constant: Constant) -> None:
        for axis in range(len(self.found.axes.get(value, ()))):
            kept = self.kept(value, axis)
            if kept is not None:
                constant = Constant.of(np.ascontiguousarray(np.take(constant.array(), kept, axis)))
        if constant.type.shape != value.tensor.shape:
            self.values[value] = Value(value.name, constant.type)
        self.constants[self.values.get(value, value)] = constant

    def _node(self, node: Node) -> Node:
        shrunk = {value: self._shrunk(value) for value in node.outputs if value is not None and isinstance(value.type, TensorType)}
        self.values.update({value: new for value, new in shrunk.items() if new is not value})
        inputs = tuple(None if value is None else self.values.get(value, value) for value in node.inputs)
        outputs = tuple(None if value is None else self.values.get(value, value) for value in node.outputs)
        if inputs == node.inputs and outputs == node.outputs:
            return node
        new = node.replace(inputs=inputs, outputs=outputs)
        fix = _FIXES.get(node.op)
        new = new if fix is None else fix(self, node, new)
        self._check(new)
        return new

    def _shrunk(self, value: Value) -> Value:
        shape: list[Dim] = list(value.tensor.shape or ())
        for axis in range(len(shape)):
            kept = self.kept(value, axis)
            if kept is not None:
                shape[axis] = len(kept)
        if value.tensor.shape is None or tuple(shape) == value.tensor.shape:
            return value
        return Value(value.name, TensorType(value.tensor.dtype, tuple(shape)))

    def _check(self, node: Node) -> None:
        """Let inference confirm the new shapes."""
        known = {
            index: self.constants[value].array()
            for index, value in enumerate(node.inputs)
            if value in self.constants and self.constants[value].type.size <= spec.MAX_DATA_ELEMENTS
        }
        try:
            types = spec.infer_node(node, known)
        except InvalidModelError as error:
            raise PassError(f"cutting channels broke {node.qualified_op}: {error.what}", where=node.loc, next_step=_REPORT) from error
        for value, type_ in zip(node.outputs, types, strict=True):
            if value is not None and isinstance(type_, TensorType) and not _agree(value.tensor.shape, type_.shape):
                what = f"cutting channels made {node.qualified_op} give {type_} instead of {value.type}"
                raise PassError(what, where=node.loc, next_step=_REPORT)


_REPORT = "report this as a defect of kopt; a smaller --ratio or --method unstructured leaves the shapes alone"


def _agree(first: tuple[Dim, ...] | None, second: tuple[Dim, ...] | None) -> bool:
    if first is None or second is None:
        return True
    known = [(a, b) for a, b in zip(first, second, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(first) == len(second) and all(a == b for a, b in known)


def _fix_conv(_: _Cut, old: Node, new: Node) -> Node:
    """As many groups as channels of the input remain."""
    weight, data = new.inputs[1], new.inputs[0]
    if old.attrs.get("group", 1) == 1 or weight is None or data is None or not isinstance(data.tensor.shape, tuple):
        return new
    channels = data.tensor.shape[1]
    return new.replace(attrs={**new.attrs, "group": int(channels) // weight.shape[1]})


def _fix_target(cutting: _Cut, old: Node, new: Node) -> Node:
    """A target shape that holds the new lengths; symbolic axes are found by the runtime as before."""
    shape, source = new.output.tensor.shape or (), new.inputs[0]
    target = cutting.found.graph.constant(old.input(1))
    if target is not None and target.size == len(shape):
        sizes = [int(t) if isinstance(dim, str) or t in (0, -1) else dim for t, dim in zip(target, shape, strict=True)]
    else:
        old_shape = source.tensor.shape or () if source is not None else ()
        sizes = [dim if isinstance(dim, int) else 0 if old_shape[axis : axis + 1] == (dim,) else -1 for axis, dim in enumerate(shape)]
    return new.replace(inputs=(new.inputs[0], cutting.ints(np.array(sizes), f"{new.output.name}.shape"), *new.inputs[2:]))


def _fix_split(cutting: _Cut, old: Node, new: Node) -> Node:
    """The lengths of the parts, spelled out."""
    axis = int(old.attrs.get("axis", 0))  # type: ignore[arg-type]
    lengths = [value.tensor.shape[axis] for value in new.outputs if value is not None and value.tensor.shape is not None]
    if any(not isinstance(length, int) for length in lengths):
        return new
    attrs = {name: value for name, value in new.attrs.items() if name != "num_outputs"}
    return new.replace(inputs=(new.inputs[0], cutting.ints(np.array(lengths), f"{new.name}.lengths")), attrs=attrs)


def _fix_resize(cutting: _Cut, old: Node, new: Node) -> Node:
    """Sizes that hold the new lengths."""
    sizes = cutting.found.graph.constant(old.input(3))
    shape = new.output.tensor.shape or ()
    if sizes is None or len(sizes) != len(shape):
        return new
    lengths = [dim if isinstance(dim, int) else int(size) for dim, size in zip(shape, sizes, strict=True)]
    return new.replace(inputs=(*new.inputs[:3], cutting.ints(np.array(lengths), f"{new.output.name}.sizes")))


def _fix_slice(cutting: _Cut, old: Node, new: Node) -> Node:
    """Slices along cut axes took them whole: they are left out."""
    starts, ends, axes, steps = (cutting.found.graph.constant(old.input(index)) for index in (1, 2, 3, 4))
    rank = len(new.output.tensor.shape or ())
    if starts is None or ends is None:
        return new
    axes = np.arange(len(starts)) if axes is None else axes
    whole = [old.inputs[0] is not None and cutting.kept(old.inputs[0], int(axis) % rank) is not None for axis in axes]
    stays = ~np.array(whole, bool)
    if stays.all():
        return new
    parts = [starts, ends, axes, np.ones(len(starts), np.int64) if steps is None else steps]
    return new.replace(inputs=(new.inputs[0], *(cutting.ints(part[stays], f"{new.output.name}.slice") for part in parts)))


_FIXES: Mapping[str, Callable[[Any, Node, Node], Node]] = {
    "Conv": _fix_conv,
    "FusedConv": _fix_conv,
    "Reshape": _fix_target,
    "Expand": _fix_target,
    "Split": _fix_split,
    "Resize": _fix_resize,
    "Slice": _fix_slice,
}
