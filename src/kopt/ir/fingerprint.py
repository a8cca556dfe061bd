"""Content hashes of graphs: equal for equal structure, whatever the values are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from kopt.ir.constant import Constant
from kopt.ir.graph import Attr, Graph, Value
from kopt.ir.types import MapType, OptionalType, SequenceType, TensorType


def fingerprint(graph: Graph) -> str:
    """sha256 over operators, attributes, types, the order of inputs and outputs, and the constants' values.

    Names of nodes and of inner values do not count, nor do metadata; names of inputs and outputs do, since callers use them.
    """
    return _digest(graph, weights=True)


def structure_fingerprint(graph: Graph) -> str:
    """Like ``fingerprint``, but of weights only the types count: equal for two trainings of one architecture."""
    return _digest(graph, weights=False)


def _digest(graph: Graph, *, weights: bool) -> str:
    content = hashlib.sha256()
    for part in _parts(graph, {}, {}, weights=weights, top=True):
        content.update(part.encode("utf-8", "surrogatepass"))
        content.update(b"\0")
    return content.hexdigest()


def _parts(graph: Graph, numbers: dict[Value, int], outer: Mapping[Value, Constant], *, weights: bool, top: bool) -> Iterable[str]:
    """The facts that count, in a fixed order; values go by the number of their first mention."""
    constants = {**outer, **graph.constants} if outer else graph.constants  # a body may read constants of its enclosing graphs

    def number(value: Value | None) -> str:
        return "_" if value is None else str(numbers.setdefault(value, len(numbers)))

    def mention(value: Value | None) -> str:
        """A constant is told by its content where it is read, so that the order of constants does not count."""
        constant = None if value is None else constants.get(value)
        return number(value) if constant is None else f"c:{constant.digest if weights else constant.type}:{number(value)}"

    yield from (f"in:{value.name if top else ''}:{number(value)}:{value.type}" for value in graph.inputs)
    for node in graph.nodes:
        yield f"node:{node.qualified_op}:{node.version}:{','.join(map(mention, node.inputs))}"
        for name in sorted(node.attrs):
            yield f"attr:{name}"
            yield from _attr_parts(node.attrs[name], numbers, constants, weights=weights)
        yield from (f"out:{number(value)}:{'' if value is None else value.type}" for value in node.outputs)
    yield from (f"result:{value.name if top else ''}:{mention(value)}" for value in graph.outputs)


def _attr_parts(attr: Attr, numbers: dict[Value, int], constants: Mapping[Value, Constant], *, weights: bool) -> Iterable[str]:
    if isinstance(attr, Graph):
        yield "graph{"
        yield from _parts(attr, numbers, constants, weights=weights, top=False)
        yield "}"
    elif isinstance(attr, Constant):
        yield f"constant:{attr.digest}"  # a tensor attribute is a setting, not a weight
    elif isinstance(attr, TensorType | SequenceType | OptionalType | MapType):
        yield f"type:{attr}"
    elif isinstance(attr, tuple):
        yield f"tuple:{len(attr)}"
        for item in attr:
            yield from _attr_parts(item, numbers, constants, weights=weights)
    else:
        yield f"{type(attr).__name__}:{attr!r}"
