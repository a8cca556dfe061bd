"""Remove what computes nothing new: identities, repeated nodes, repeated small constants, dead code. Linear in the graph."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.ir import spec
from kopt.ir.constant import Constant
from kopt.ir.graph import Attr, Graph, Node, Value, node_reads
from kopt.ir.surgery import Names, keep_output_names, remove_dead, substitute, with_captures
from kopt.passes.base import PassContext, register
from kopt.passes.identities import SIMPLIFICATIONS, View

_MAX_MERGED_BYTES = 1 << 16  # larger constants are weights: reading and hashing them all is not worth it
_FRESH_EACH_TIME = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"})


@register
@dataclass(frozen=True)
class Cleanup:
    """Remove identities, merge common subexpressions, and drop dead code; bodies of control flow included.

    Attributes:
        merge_common: whether equal nodes and equal small constants are computed once.
        max_rounds: bound on repeated walks; one walk removes chains of any length, a second finds what merging uncovered.
    """

    name: ClassVar[str] = "cleanup"
    merge_common: bool = True
    max_rounds: int = 3

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph without superfluous nodes."""
        for _ in range(self.max_rounds):
            cleaned = _clean(graph, ctx, self.merge_common)
            if cleaned is graph:
                break
            graph = cleaned
        return graph


def _clean(graph: Graph, ctx: PassContext, merge: bool) -> Graph:
    graph = remove_dead(graph)
    walk = _Walk(graph, ctx, merge, Names.of(graph), {}, {})
    result = walk.run()
    if result is graph:
        return graph
    return remove_dead(keep_output_names(result, [value.name for value in graph.outputs]))


class _Walk:
    """One forward walk over a graph or body."""

    def __init__(
        self,
        graph: Graph,
        ctx: PassContext,
        merge: bool,
        names: Names,
        replaced: MutableMapping[Value, Value],
        constants: MutableMapping[Value, Constant],
    ) -> None:
        self.graph, self.ctx, self.merge, self.names = graph, ctx, merge, names
        self.replaced = replaced
        self.local = dict(graph.constants)
        self.constants = constants
        self.constants.update(graph.constants)
        self.producers: dict[Value, Node] = {}
        self.seen: dict[Hashable, Node] = {}
        self.nodes: list[Node] = []
        # Graph outputs need a value of their own each, made inside the graph, so that their names can be kept.
        self.claimed = set(graph.outputs)
        self.foreign = {*graph.inputs, *graph.captures}
        read = {value for node in graph.nodes for value in node_reads(node) if value is not None}
        self.view = View(constants, self.producers, read | set(graph.outputs), self.new_constant)

    def run(self) -> Graph:
        if self.merge:
            self._merge_constants()
        for node in self.graph.nodes:
            self._visit(self._clean_bodies(substitute(node, self.replaced) if self.replaced else node))
        outputs = tuple(self.replaced.get(value, value) for value in self.graph.outputs)
        same = len(self.nodes) == len(self.graph.nodes) and all(a is b for a, b in zip(self.nodes, self.graph.nodes, strict=True))
        if same and outputs == self.graph.outputs and self.local.keys() == self.graph.constants.keys():
            return self.graph
        return self.graph.replace(nodes=tuple(self.nodes), outputs=outputs, constants=self.local)

    def new_constant(self, array: np.ndarray, hint: str) -> Value:
        constant = Constant.of(array)
        value = Value(self.names.fresh(hint), constant.type)
        self.constants[value] = self.local[value] = constant
        return value

    def _merge_constants(self) -> None:
        first: dict[tuple[str, str], Value] = {}
        for value, constant in self.graph.constants.items():
            if constant.nbytes > _MAX_MERGED_BYTES or value in self.claimed:
                continue
            found = first.setdefault((str(constant.type), constant.digest), value)
            if found is not value:
                self.replaced[value] = found
                del self.local[value]
                self.ctx.applied("merge-constant")

    def _clean_bodies(self, node: Node) -> Node:
        attrs = {name: self._clean_attr(attr) for name, attr in node.attrs.items() if isinstance(attr, Graph)}
        if all(attr is node.attrs[name] for name, attr in attrs.items()):
            return node
        return node.replace(attrs={**node.attrs, **attrs})

    def _clean_attr(self, body: Graph) -> Graph:
        pruned = remove_dead(body)
        walk = _Walk(pruned, self.ctx, self.merge, self.names, {}, ChainMap({}, self.constants))
        result = walk.run()
        return body if result is body else with_captures(remove_dead(result))

    def _visit(self, node: Node) -> None:
        rule = SIMPLIFICATIONS.get(node.op) if not node.domain else None
        result = rule(node, self.view) if rule is not None and node.outputs and node.outputs[0] is not None else None
        if isinstance(result, Value) and self._may_replace(node.output, result):
            self.replaced[node.output] = result
            self.ctx.applied(f"identity-{node.op.lower()}")
            return
        if isinstance(result, Node):
            self.ctx.applied(f"merge-{node.op.lower()}")
            node = result
        if self.merge and self._merged(node):
            return
        self.nodes.append(node)
        for value in node.outputs:
            if value is not None:
                self.producers[value] = node

    def _may_replace(self, old: Value, new: Value) -> bool:
        if old not in self.claimed:
            return True
        if new in self.claimed or new in self.foreign or (new not in self.producers and new not in self.local):
            return False
        self.claimed.add(new)
        return True

    def _merged(self, node: Node) -> bool:
        key = node_key(node)
        if key is None:
            return False
        found = self.seen.get(key)
        if found is None:
            self.seen[key] = node
            return False
        pairs = [(old, new) for old, new in zip(node.outputs, found.outputs, strict=True) if old is not None and new is not None]
        if any(old in self.claimed and new in self.claimed for old, new in pairs):
            return False
        self.claimed.update(new for old, new in pairs if old in self.claimed)
        self.replaced.update(pairs)
        self.ctx.applied("merge-common")
        return True


def node_key(node: Node) -> Hashable | None:
    """Equal for nodes that compute the same; None for nodes that must not be merged."""
    if node.op in _FRESH_EACH_TIME or (node.op == "Dropout" and node.input(2) is not None):
        return None
    attrs = tuple((name, key) for name in sorted(node.attrs) for key in _attr_keys(node.attrs[name]))
    if any(key is None for _, key in attrs):
        return None
    wanted = tuple(value is not None for value in node.outputs)
    return (node.domain, node.op, node.inputs, wanted, attrs)


def _attr_keys(attr: Attr) -> Iterator[Hashable | None]:
    for item in attr if isinstance(attr, tuple) else (attr,):
        if isinstance(item, Graph):
            yield None
        elif isinstance(item, Constant):
            yield item.digest if item.nbytes <= _MAX_MERGED_BYTES else id(item)
        else:
            yield (type(item).__name__, item)


def drop_unread_outputs(graph: Graph) -> Graph:
    """The graph with optional outputs that nothing reads left out."""
    nodes = tuple(_without_unread(graph, node) for node in graph.nodes)
    return graph if all(new is old for new, old in zip(nodes, graph.nodes, strict=True)) else graph.replace(nodes=nodes)


def _without_unread(graph: Graph, node: Node) -> Node:
    if len(node.outputs) < 2 or all(value is None or graph.uses(value) for value in node.outputs):
        return node
    found = spec.schema(node.op, node.domain)
    if found is None:
        return node
    optional = spec.optional_outputs(node.op, node.domain)
    outputs = tuple(
        None if k in optional and value is not None and not graph.uses(value) else value for k, value in enumerate(node.outputs)
    )
    while outputs and outputs[-1] is None and len(outputs) > 1:
        outputs = outputs[:-1]
    return node if outputs == node.outputs else node.replace(outputs=outputs)
