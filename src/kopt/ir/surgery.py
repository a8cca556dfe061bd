"""Operations on whole graphs that every rewriting pass needs; all are linear in the size of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kopt.ir.constant import Constant
from kopt.ir.graph import Attr, Graph, Node, Value, node_reads


class Names:
    """Names in use; every fresh one differs from all of them."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = taken if isinstance(taken, set) else set(taken)
        self._counts: dict[str, int] = {}

    @classmethod
    def of(cls, graph: Graph) -> Names:
        """The names of every value of a graph, those inside bodies included."""
        return cls(all_names(graph))

    def fresh(self, hint: str) -> str:
        """An unused name that starts with ``hint``; from now on it is in use."""
        name = hint
        while name in self._taken:
            self._counts[hint] = self._counts.get(hint, 0) + 1
            name = f"{hint}_{self._counts[hint]}"
        self._taken.add(name)
        return name


def all_names(graph: Graph) -> set[str]:
    """Names of every value, those inside bodies included."""
    names: set[str] = set()
    graphs = [graph]
    while graphs:
        current = graphs.pop()
        names.update(value.name for value in (*current.inputs, *current.constants))
        for node in current.nodes:
            names.update(value.name for value in node.outputs if value is not None)
            graphs.extend(node.subgraphs())
    return names


def substitute(node: Node, replaced: Mapping[Value, Value]) -> Node:
    """The node reading ``replaced[v]`` wherever it read ``v``, inside its bodies too; the node itself when nothing changes."""
    inputs = tuple([None if value is None else replaced.get(value, value) for value in node.inputs])
    attrs = dict(node.attrs)
    changed = False
    for name, attr in node.attrs.items():
        new = _substitute_attr(attr, replaced)
        if new is not attr:
            attrs[name], changed = new, True
    if changed:
        return node.replace(inputs=inputs, attrs=attrs)
    return node if inputs == node.inputs else node.replace(inputs=inputs)


def _substitute_attr(attr: Attr, replaced: Mapping[Value, Value]) -> Attr:
    if isinstance(attr, Graph):
        return _substitute_body(attr, replaced)
    if isinstance(attr, tuple) and attr and isinstance(attr[0], Graph):
        bodies = tuple(_substitute_body(item, replaced) for item in attr if isinstance(item, Graph))
        return attr if all(new is old for new, old in zip(bodies, attr, strict=True)) else bodies
    return attr


def _substitute_body(body: Graph, replaced: Mapping[Value, Value]) -> Graph:
    if not any(value in replaced for value in body.captures):
        return body
    nodes = tuple(substitute(node, replaced) for node in body.nodes)
    outputs = tuple(replaced.get(value, value) for value in body.outputs)
    return with_captures(body.replace(nodes=nodes, outputs=outputs))


def with_captures(body: Graph) -> Graph:
    """The body with ``captures`` computed from what its nodes and outputs read from outside."""
    local = {*body.inputs, *body.constants}
    read: dict[Value, None] = {}
    for node in body.nodes:
        read.update((value, None) for value in node_reads(node) if value is not None and value not in local)
        local.update(value for value in node.outputs if value is not None)
    read.update((value, None) for value in body.outputs if value not in local)
    return body.replace(captures=tuple(read))


def remove_dead(graph: Graph) -> Graph:
    """The graph without nodes and constants that no output depends on; the graph itself when all are needed.

    Unused outputs of live nodes and the insides of bodies are left as they are.
    """
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(value in needed for value in node.outputs if value is not None):
            kept.append(node)
            needed.update(value for value in node_reads(node) if value is not None)
    constants = {value: constant for value, constant in graph.constants.items() if value in needed}
    if len(kept) == len(graph.nodes) and len(constants) == len(graph.constants):
        return graph
    return graph.replace(nodes=tuple(reversed(kept)), constants=constants)


def keep_output_names(graph: Graph, names: Sequence[str]) -> Graph:
    """The graph with its outputs called ``names``.

    A value that a node of the graph makes is renamed; an Identity is added only where the value is a graph input or
    capture, or already carries the name of another output.
    """
    if all(value.name == name for value, name in zip(graph.outputs, names, strict=True)):
        return graph
    owned = {value for node in graph.nodes for value in node.outputs if value is not None} | set(graph.constants)
    kept = {value for value, name in zip(graph.outputs, names, strict=True) if value.name == name}
    renamed: dict[Value, Value] = {}
    outputs: list[Value] = []
    copies: list[Node] = []
    for value, name in zip(graph.outputs, names, strict=True):
        if value.name == name:
            outputs.append(value)
        elif value in owned and value not in kept and value not in renamed:
            renamed[value] = Value(name, value.type)
            outputs.append(renamed[value])
        else:
            outputs.append(Value(name, value.type))
            copies.append(_identity(renamed.get(value, value), outputs[-1], graph))
    nodes = tuple(rename_outputs(substitute(node, renamed), renamed) for node in graph.nodes) if renamed else graph.nodes
    constants = {renamed.get(value, value): constant for value, constant in graph.constants.items()}
    # A value that was produced before its rename must not be confused with one that had the wanted name all along.
    return free_names(graph.replace(outputs=tuple(outputs), nodes=(*nodes, *copies), constants=constants), {*renamed.values(), *outputs})


def _identity(source: Value, target: Value, graph: Graph) -> Node:
    version = next((node.version for node in graph.nodes if not node.domain), 0)
    return Node("Identity", (source,), (target,), {}, version=version)


def rename_outputs(node: Node, renamed: Mapping[Value, Value]) -> Node:
    """The node making ``renamed[v]`` wherever it made ``v``."""
    if not any(value in renamed for value in node.outputs if value is not None):
        return node
    return node.replace(outputs=tuple(None if value is None else renamed.get(value, value) for value in node.outputs))


def free_names(graph: Graph, owners: Iterable[Value]) -> Graph:
    """The graph with other values that share a name with one of ``owners`` renamed."""
    owners = set(owners)
    names = {value.name for value in owners}
    made = [value for node in graph.nodes for value in node.outputs if value is not None]
    clashing = [value for value in (*made, *graph.constants) if value.name in names and value not in owners]
    if not clashing:
        return graph
    names_in_use = Names.of(graph)
    return _rename(graph, {value: Value(names_in_use.fresh(value.name), value.type) for value in clashing})


def unique_names(graph: Graph) -> Graph:
    """The graph with later values renamed that share a name with an earlier one, as inlined bodies may."""
    seen = {value.name for value in graph.inputs}
    clashing: list[Value] = []
    for value in (*graph.constants, *(made for node in graph.nodes for made in node.outputs if made is not None)):
        if value.name in seen:
            clashing.append(value)
        seen.add(value.name)
    if not clashing:
        return graph
    names_in_use = Names.of(graph)
    return _rename(graph, {value: Value(names_in_use.fresh(value.name), value.type) for value in clashing})


def _rename(graph: Graph, renamed: Mapping[Value, Value]) -> Graph:
    nodes = tuple(rename_outputs(substitute(node, renamed), renamed) for node in graph.nodes)
    constants: dict[Value, Constant] = {renamed.get(value, value): constant for value, constant in graph.constants.items()}
    outputs = tuple(renamed.get(value, value) for value in graph.outputs)
    return graph.replace(nodes=nodes, constants=constants, outputs=outputs)
