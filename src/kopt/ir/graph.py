"""The graph: frozen SSA in canonical ONNX vocabulary.

Values compare by identity, graphs by content (``kopt.ir.fingerprint``). Nothing is changed after construction: a pass
builds a new graph that shares whatever it did not touch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from kopt.errors import InvalidModelError, Location
from kopt.ir.constant import Constant
from kopt.ir.types import TensorType, Type

Scalar: TypeAlias = int | float | str | bytes
Attr: TypeAlias = "Scalar | tuple[Scalar, ...] | Constant | tuple[Constant, ...] | Graph | tuple[Graph, ...] | Type | tuple[Type, ...]"

ONNX = ""  # the ai.onnx domain
KOPT = "com.kopt"  # operators of kopt's own, between passes and backends
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One SSA value. Its name is for people; identity is what counts."""

    name: str
    type: Type

    @property
    def tensor(self) -> TensorType:
        """The tensor type.

        Raises:
            TypeError: the value is a sequence or an optional.
        """
        if not isinstance(self.type, TensorType):
            raise TypeError(f"'{self.name}' is {self.type}, not a tensor")
        return self.type

    @property
    def shape(self) -> tuple[int, ...]:
        """The static shape.

        Raises:
            ValueError: not static.
        """
        return self.tensor.static_shape

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation. ``attrs`` has its defaults filled in; an absent optional input is None.

    Attributes:
        op: ONNX operator name, such as "MatMul".
        inputs: positional, None where an optional input is left out.
        outputs: positional, None where an optional output is not wanted.
        attrs: attribute values; a Graph for the bodies of If, Loop and Scan.
        loc: the user's node names this node stands for.
        domain: "" for ai.onnx.
        version: the schema version that ``attrs`` and ``inputs`` follow (kopt.ir.spec.CANONICAL_OPSET for ai.onnx).
    """

    op: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    loc: Location = field(default_factory=Location)
    domain: str = ONNX
    version: int = 0

    @property
    def name(self) -> str:
        """The user's name of this node, or its first output's."""
        if self.loc.nodes:
            return self.loc.nodes[0]
        return next((value.name for value in self.outputs if value is not None), self.op)

    @property
    def qualified_op(self) -> str:
        """``op`` for ai.onnx, ``domain::op`` otherwise."""
        return f"{self.domain}::{self.op}" if self.domain else self.op

    @property
    def output(self) -> Value:
        """The first output.

        Raises:
            ValueError: the first output is not wanted.
        """
        if not self.outputs or self.outputs[0] is None:
            raise ValueError(f"{self.qualified_op} '{self.name}' has no first output")
        return self.outputs[0]

    def input(self, index: int) -> Value | None:
        """The input at ``index``, None when absent or beyond the end."""
        return self.inputs[index] if index < len(self.inputs) else None

    def subgraphs(self) -> Iterator[Graph]:
        """The graphs held by attributes, in attribute order."""
        for attr in self.attrs.values():
            if isinstance(attr, Graph):
                yield attr
            elif isinstance(attr, tuple):
                yield from (item for item in attr if isinstance(item, Graph))

    def replace(self, **changes: object) -> Node:
        """A copy with the given fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        outputs = ", ".join("_" if value is None else f"%{value.name}" for value in self.outputs)
        inputs = ", ".join("_" if value is None else f"%{value.name}" for value in self.inputs)
        return f"{outputs} = {self.qualified_op}({inputs})"


@dataclass(frozen=True, slots=True)
class Use:
    """One reader of a value: ``node.inputs[index]``, or graph output ``index`` when ``node`` is None."""

    node: Node | None
    index: int


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole model, or the body of a control-flow node.

    Attributes:
        name: the model's name, for messages.
        inputs: what a caller feeds, in order.
        outputs: what a caller gets, in order; entries may repeat, and may be inputs or constants.
        nodes: in topological order.
        constants: values known at compile time (weights, folded values).
        captures: values of enclosing graphs that a body reads; empty for a whole model.
        metadata: free text that travels with the model.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[Value, Constant] = field(default_factory=dict)
    captures: tuple[Value, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def producers(self) -> Mapping[Value, Node]:
        """The node that makes each value; inputs and constants are absent."""
        return MappingProxyType({value: node for node in self.nodes for value in node.outputs if value is not None})

    @cached_property
    def _uses(self) -> Mapping[Value, Sequence[Use]]:
        uses: dict[Value, list[Use]] = {}
        for node in self.nodes:
            for index, value in enumerate(node_reads(node)):
                if value is not None:
                    uses.setdefault(value, []).append(Use(node, index))
        for index, value in enumerate(self.outputs):
            uses.setdefault(value, []).append(Use(None, index))
        return uses

    def uses(self, value: Value) -> Sequence[Use]:
        """All readers of ``value``: nodes (their captured values included) and graph outputs."""
        return self._uses.get(value, ())

    def producer(self, value: Value | None) -> Node | None:
        """The node that makes ``value``, or None."""
        return None if value is None else self.producers.get(value)

    def constant(self, value: Value | None) -> np.ndarray | None:
        """The array of a constant value, or None for anything else."""
        found = None if value is None else self.constants.get(value)
        return None if found is None else found.array()

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Every node with the graph that holds it, bodies of control flow included."""
        stack = [(self, iter(self.nodes))]
        while stack:
            graph, nodes = stack[-1]
            node = next(nodes, None)
            if node is None:
                stack.pop()
                continue
            yield graph, node
            stack.extend((body, iter(body.nodes)) for body in node.subgraphs())

    def replace(self, **changes: object) -> Graph:
        """A copy with the given fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def verify(self) -> None:
        """Check SSA form and topological order, bodies included.

        Raises:
            InvalidModelError: a value is read before it is made, or made twice.
        """
        _verify(self, frozenset(self.captures))


def node_reads(node: Node) -> tuple[Value | None, ...]:
    """What a node reads: its inputs, then what the bodies it holds capture from outside."""
    captured = tuple(value for body in node.subgraphs() for value in body.captures)
    return node.inputs + captured if captured else node.inputs


def _verify(graph: Graph, outer: frozenset[Value]) -> None:
    known = set(outer) | set(graph.inputs) | set(graph.constants)
    for node in graph.nodes:
        for value in node_reads(node):
            if value is not None and value not in known:
                raise InvalidModelError(
                    f"{node.qualified_op} reads '{value.name}' before anything makes it",
                    where=node.loc,
                    next_step="the graph has a cycle, a dangling input, or nodes out of order",
                )
        for body in node.subgraphs():
            _verify(body, frozenset(body.captures))
        for value in node.outputs:
            if value is None:
                continue
            if value in known:
                raise InvalidModelError(f"'{value.name}' is made twice", where=node.loc, next_step="every value needs one producer")
            known.add(value)
    for value in graph.outputs:
        if value not in known:
            raise InvalidModelError(
                f"graph output '{value.name}' is made by no node", where=graph.name, next_step="remove the output or its name"
            )
