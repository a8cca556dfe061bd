"""Patterns as data: what a rewrite rule looks for.

``op("Add", Var("x"), Var("b", constant=True), commutative=True)`` matches the node that makes a value; nodes below the
root must have no reader outside of the match, so that replacing the root leaves them dead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from kopt.errors import Location
from kopt.ir.graph import Graph, Node, Value


@dataclass(frozen=True, slots=True)
class Var:
    """Any value, bound to ``name``; every occurrence of one name must be the same value.

    Attributes:
        name: what the rule calls it.
        constant: only a constant.
        optional: also an input that is left out.
    """

    name: str
    constant: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """A constant whose entries all equal ``value`` within ``rtol``."""

    value: float
    rtol: float = 1e-3


@dataclass(frozen=True, slots=True)
class Op:
    """The first output of a node of the given operator. Inputs beyond the pattern must be absent."""

    op: str
    inputs: tuple[Pattern, ...]
    name: str = ""
    commutative: bool = False
    domain: str = ""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The first alternative that matches."""

    alternatives: tuple[Pattern, ...]


Pattern: TypeAlias = Var | Number | Op | AnyOf


def op(name: str, *inputs: Pattern, as_: str = "", commutative: bool = False, domain: str = "") -> Op:
    """A node pattern; ``as_`` is what the rule calls the node."""
    return Op(name, inputs, as_, commutative, domain)


def any_of(*alternatives: Pattern) -> AnyOf:
    """A pattern that matches where one of the alternatives does."""
    return AnyOf(alternatives)


@dataclass
class Match:
    """A pattern found in a graph: its values and nodes by the names the pattern gave them."""

    graph: Graph
    root: Node
    values: dict[str, Value | None] = field(default_factory=dict)
    named: dict[str, Node] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def __getitem__(self, name: str) -> Value:
        value = self.values[name]
        if value is None:
            raise KeyError(name)
        return value

    def has(self, name: str) -> bool:
        """Whether an optional value is there."""
        return self.values.get(name) is not None

    def array(self, name: str) -> np.ndarray:
        """The array of a constant value of the match."""
        return self.graph.constants[self[name]].array()

    def node(self, name: str) -> Node:
        """The node that the pattern calls ``name``."""
        return self.named[name]

    @property
    def loc(self) -> Location:
        """All matched nodes' locations, in graph order."""
        first, *rest = reversed(self.nodes)
        return first.loc.merge(*(node.loc for node in rest))


def match(pattern: Op, graph: Graph, root: Node, alive: Callable[[Node], bool] = lambda _: True) -> Match | None:
    """The match of ``pattern`` whose root is ``root``, or None; ``alive`` says which nodes may take part."""
    found = Match(graph, root)
    return found if _match_node(pattern, root, found, alive) and _is_closed(found) else None


def _is_closed(found: Match) -> bool:
    """Whether nothing outside of the match reads what its inner nodes make."""
    inside = set(found.nodes)
    inner = (node.output for node in inside if node is not found.root)
    return all(use.node in inside for value in inner for use in found.graph.uses(value))


def _match_node(pattern: Op, node: Node, found: Match, alive: Callable[[Node], bool]) -> bool:
    if node.op != pattern.op or node.domain != pattern.domain or not alive(node):
        return False
    if any(value is not None and found.graph.uses(value) for value in node.outputs[1:]):
        return False
    orders = [node.inputs, node.inputs[::-1]] if pattern.commutative else [node.inputs]
    for inputs in orders:
        saved = dict(found.values), dict(found.named), list(found.nodes)
        found.nodes.append(node)
        if pattern.name:
            found.named[pattern.name] = node
        if _match_inputs(pattern, inputs, found, alive):
            return True
        found.values, found.named, found.nodes = saved
    return False


def _match_inputs(pattern: Op, inputs: tuple[Value | None, ...], found: Match, alive: Callable[[Node], bool]) -> bool:
    if any(value is not None for value in inputs[len(pattern.inputs) :]):
        return False
    padded = (*inputs, *([None] * (len(pattern.inputs) - len(inputs))))
    return all(_match_value(part, value, found, alive) for part, value in zip(pattern.inputs, padded, strict=False))


def _match_value(pattern: Pattern, value: Value | None, found: Match, alive: Callable[[Node], bool]) -> bool:
    if isinstance(pattern, AnyOf):
        return any(_match_value(part, value, found, alive) for part in pattern.alternatives)
    if isinstance(pattern, Var):
        if value is None and not pattern.optional:
            return False
        if pattern.constant and value is not None and value not in found.graph.constants:
            return False
        if pattern.name in found.values and found.values[pattern.name] is not value:
            return False
        found.values[pattern.name] = value
        return True
    if value is None:
        return False
    if isinstance(pattern, Number):
        constant = found.graph.constants.get(value)
        if constant is None or constant.type.size != 1:
            return False
        return bool(np.isclose(float(constant.array().item()), pattern.value, rtol=pattern.rtol, atol=0))
    node = found.graph.producer(value)
    if node is None or not node.outputs or node.outputs[0] is not value:
        return False
    return _match_node(pattern, node, found, alive)
