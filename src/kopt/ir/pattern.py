"""Patterns as data: what a rewrite rule looks for.

``op("Add", Var("x"), Var("b", constant=True), commutative=True)`` matches the node that makes a value; nodes below the
root must have no reader outside of the match, so that replacing the root leaves them dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """The match of ``pattern`` whose root is ``root``, or None; ``alive`` says which nodes may take part.

    Every order of commutative operators and every alternative is tried, until one fits as a whole.
    """
    found = Match(graph, root)
    for _ in _node_ways(pattern, root, found, alive):
        if _is_closed(found):
            return found
    return None


def _is_closed(found: Match) -> bool:
    """Whether nothing outside of the match reads what its inner nodes make."""
    inside = set(found.nodes)
    inner = (node.output for node in inside if node is not found.root)
    return all(use.node in inside for value in inner for use in found.graph.uses(value))


# Each of these yields once per way to match. What a way binds stands in ``found`` while it is yielded, and is undone after.


def _node_ways(pattern: Op, node: Node, found: Match, alive: Callable[[Node], bool]) -> Iterator[None]:
    if node.op != pattern.op or node.domain != pattern.domain or not alive(node):
        return
    if any(value is not None and found.graph.uses(value) for value in node.outputs[1:]):
        return
    if any(value is not None for value in node.inputs[len(pattern.inputs) :]):
        return
    given = (*node.inputs, *([None] * len(pattern.inputs)))[: len(pattern.inputs)]
    found.nodes.append(node)
    before = found.named.get(pattern.name)
    if pattern.name:
        found.named[pattern.name] = node
    for inputs in (given, given[::-1]) if pattern.commutative else (given,):
        yield from _input_ways(tuple(zip(pattern.inputs, inputs, strict=False)), found, alive)
    found.nodes.pop()
    if pattern.name:
        found.named.pop(pattern.name)
        if before is not None:
            found.named[pattern.name] = before


def _input_ways(pairs: tuple[tuple[Pattern, Value | None], ...], found: Match, alive: Callable[[Node], bool]) -> Iterator[None]:
    if not pairs:
        yield
        return
    (pattern, value), *rest = pairs
    for _ in _value_ways(pattern, value, found, alive):
        yield from _input_ways(tuple(rest), found, alive)


def _value_ways(pattern: Pattern, value: Value | None, found: Match, alive: Callable[[Node], bool]) -> Iterator[None]:
    if isinstance(pattern, AnyOf):
        for part in pattern.alternatives:
            yield from _value_ways(part, value, found, alive)
    elif isinstance(pattern, Var):
        yield from _variable_ways(pattern, value, found)
    elif value is None:
        return
    elif isinstance(pattern, Number):
        constant = found.graph.constants.get(value)
        if constant is None or constant.type.size != 1:
            return
        if np.isclose(float(constant.array().item()), pattern.value, rtol=pattern.rtol, atol=0):
            yield
    else:
        node = found.graph.producer(value)
        if node is not None and node.outputs and node.outputs[0] is value:
            yield from _node_ways(pattern, node, found, alive)


def _variable_ways(pattern: Var, value: Value | None, found: Match) -> Iterator[None]:
    if value is None and not pattern.optional:
        return
    if pattern.constant and value is not None and value not in found.graph.constants:
        return
    if pattern.name in found.values:
        if found.values[pattern.name] is value:
            yield
        return
    found.values[pattern.name] = value
    yield
    del found.values[pattern.name]
