"""A whole graph as a sequence of kernel calls, with a place for every array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any

from kopt.errors import Location
from kopt.hardware import Target
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Node, Value
from kopt.targets.kernels.schedule import Schedules
from kopt.targets.tvm_memory import placed
from kopt.targets.tvm_ops.registry import Context, translation_of
from kopt.targets.tvm_plan import Plan, Refused, Step, dtype_of, itemsize
from kopt.targets.tvm_tree import Leaf, Storage, Tensor, is_cheap
from kopt.targets.tvm_view import View

_MODULES = ("attention", "conv", "elementwise", "gathering", "inverted", "movement", "product", "reduction", "upscaling")


@dataclass(frozen=True)
class Program:
    """A graph translated.

    Attributes:
        steps: in the order they run.
        places: base and byte offset of every storage. Bases are what the caller hands over: arena, weights, inputs, outputs.
        constants: what computes the values of every weight, by name.
        arena_bytes: size of the arena.
        num_bases: how many there are.
        unsupported: nodes that cannot be translated; the rest is meaningless if there are any.
    """

    steps: tuple[Step, ...]
    places: Mapping[Storage, tuple[int, int]]
    constants: Mapping[str, Any]
    arena_bytes: int
    num_bases: int
    unsupported: tuple[tuple[str, Location, str], ...] = ()


def has_translations(graph: Graph) -> bool:
    """Whether there is a translation for every operator of a graph, whatever the types and sizes."""
    _load()
    return all(translation_of(node) is not None for node in graph.nodes)


def _load() -> None:
    for module in _MODULES:
        import_module(f"kopt.targets.tvm_ops.{module}")


def translate(graph: Graph, target: Target, schedules: Schedules | None = None) -> Program:
    """The calls that compute a graph's outputs.

    Args:
        graph: all types static.
        target: a CPU.
        schedules: of kernels, found by searches.
    """
    _load()
    plan, refused = Plan(target, schedules or {}), list[tuple[str, Location, str]]()
    values: dict[Value, Tensor | None] = {value: _placeholder(value, "input") for value in graph.inputs}
    for value, constant in graph.constants.items():
        values[value] = _constant(plan, value, constant)
    for node in graph.nodes:
        plan.node = node.name
        try:
            outputs = _translated(plan, graph, node, values)
        except Refused as error:
            refused.append((node.qualified_op, node.loc, str(error)))
            outputs = [None if value is None else _placeholder(value, "arena") for value in node.outputs]
        values.update((value, found) for value, found in zip(node.outputs, outputs, strict=False) if value is not None)
    for value in graph.outputs:
        if values[value] is None and not refused:
            refused.append(("output", Location(graph.name), f"'{value.name}' is {value.type}, for which there is no code"))
    if refused:
        return Program((), {}, {}, 0, 0, tuple(refused))
    plan.node = "outputs"
    held = {value: tensor for value, tensor in values.items() if tensor is not None}
    return _placed(plan, graph, held, _outputs(plan, graph, held))


def _placeholder(value: Value, kind: str) -> Tensor | None:
    """Memory of a value's type, None for a type that this backend has no code for."""
    try:
        dtype, shape = dtype_of(value.type), value.tensor.static_shape
    except Refused:
        return None
    return Tensor(shape, Leaf(Storage(kind, dtype, prod(shape), value.name), View.whole(shape)))


def _constant(plan: Plan, value: Value, constant: Constant) -> Tensor | None:
    """A constant, None for one of a type that this backend has no code for."""
    try:
        dtype = dtype_of(constant.type)
    except Refused:
        return None
    return plan.constant_of(constant.type.static_shape, dtype, constant.array, value.name)


def _translated(plan: Plan, graph: Graph, node: Node, values: Mapping[Value, Tensor | None]) -> list[Tensor | None]:
    function = translation_of(node)
    if function is None:
        raise Refused("no translation")
    for value in (*node.inputs, *node.outputs):
        if value is not None:
            dtype_of(value.type)
    inputs = [None if value is None else values[value] for value in node.inputs]
    if any(tensor is None for tensor, value in zip(inputs, node.inputs, strict=True) if value is not None):
        raise Refused("it reads what is not known before the program runs")
    result = function(Context(plan, node), *inputs)
    outputs = list(result) if isinstance(result, tuple) else [result]
    for k, (value, tensor) in enumerate(zip(node.outputs, outputs, strict=False)):
        if value is None or tensor is None:
            continue
        if tensor.shape != value.tensor.static_shape or tensor.dtype != dtype_of(value.type):
            raise RuntimeError(f"{node.qualified_op} was translated to {tensor.dtype}{list(tensor.shape)} but is {value.type}")
        if len(graph.uses(value)) > 1 and not (tensor.is_stored or is_cheap(tensor.tree)):
            outputs[k] = plan.stored(tensor)
    return outputs


def _outputs(plan: Plan, graph: Graph, values: Mapping[Value, Tensor]) -> list[Storage]:
    """The storage of every output: where its last step wrote it, or a copy of it."""
    found: list[Storage] = []
    for value in graph.outputs:
        tensor = plan.stored(values[value]) if not isinstance(values[value].tree, Leaf) else values[value]
        tree = tensor.tree
        fits = isinstance(tree, Leaf) and tree.storage.kind == "arena" and tree.view.is_contiguous and not tree.view.offset
        if not fits or not isinstance(tree, Leaf) or tree.storage in found or tree.storage.size != tensor.size:
            copy = plan.new(tensor.shape, tensor.dtype)
            plan.write(tensor, copy)
            tree = plan.leaf(copy)
        found.append(tree.storage)
    return found


def _placed(plan: Plan, graph: Graph, values: Mapping[Value, Tensor], outputs: list[Storage]) -> Program:
    used: dict[Storage, tuple[int, int]] = {}
    for number, step in enumerate(plan.steps):
        for storage, _ in step.arguments:
            used[storage] = (used.get(storage, (number, number))[0], number)
    weights = {storage: plan.constants[storage] for storage in used if storage in plan.constants}
    names = _names(weights)
    inner = [storage for storage in used if storage.kind == "arena" and storage not in outputs]
    offsets, size = placed({one: (max(1, one.size) * itemsize(one.dtype), *used[one]) for one in inner})
    places: dict[Storage, tuple[int, int]] = {storage: (0, at) for storage, at in offsets.items()}
    places |= {storage: (1 + k, 0) for k, storage in enumerate(weights)}
    first = 1 + len(weights)
    for k, value in enumerate(graph.inputs):
        tree = values[value].tree
        if isinstance(tree, Leaf):
            places[tree.storage] = (first + k, 0)
    places |= {storage: (first + len(graph.inputs) + k, 0) for k, storage in enumerate(outputs)}
    constants = {names[storage]: make for storage, make in weights.items()}
    return Program(tuple(plan.steps), places, constants, size, first + len(graph.inputs) + len(outputs))


def _names(weights: Mapping[Storage, Any]) -> dict[Storage, str]:
    """A name for every weight, of its own."""
    names: dict[Storage, str] = {}
    taken: set[str] = set()
    for number, storage in enumerate(weights):
        name = storage.name or "constant"
        name = name if name not in taken else f"{name}.{number}"
        taken.add(name)
        names[storage] = name
    return names
