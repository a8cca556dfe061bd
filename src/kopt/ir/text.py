"""Graphs as text for people: one line per node, with the types it makes."""

from __future__ import annotations

from collections.abc import Iterator

from kopt.ir.constant import Constant
from kopt.ir.graph import Attr, Graph, Node, Value
from kopt.ir.spec import default_attrs
from kopt.ir.types import DType, TensorType

MAX_SHOWN_ELEMENTS = 8
"""Constants up to this many elements are printed by value."""


def graph_text(graph: Graph) -> str:
    """The whole graph: its signature, constants that are read, and nodes in order; bodies are indented below their node."""
    return "\n".join(_graph_lines(graph, "graph", ""))


def node_text(node: Node) -> str:
    """One line: outputs with types, operator, inputs, attributes that differ from their default, and the user's name."""
    outputs = ", ".join("_" if value is None else f"%{value.name}: {value.type}" for value in node.outputs)
    inputs = ", ".join("_" if value is None else f"%{value.name}" for value in node.inputs)
    defaults = default_attrs(node.op, node.domain)
    shown = [f"{name}={_attr_text(value)}" for name, value in node.attrs.items() if name not in defaults or defaults[name] != value]
    attrs = f" {{{', '.join(shown)}}}" if shown else ""
    made = {value.name for value in node.outputs if value is not None}
    names = [name for name in node.loc.nodes if name not in made]
    loc = f"  # {', '.join(names)}" if names else ""
    return f"{outputs} = {node.qualified_op}({inputs}){attrs}{loc}"


def _graph_lines(graph: Graph, title: str, indent: str) -> Iterator[str]:
    yield f"{indent}{title} {graph.name}({', '.join(map(_typed, graph.inputs))}) -> ({', '.join(map(_typed, graph.outputs))})"
    if graph.captures:
        yield f"{indent}  captures {', '.join(f'%{value.name}' for value in graph.captures)}"
    for value, constant in graph.constants.items():
        yield f"{indent}  %{value.name} = {_constant_text(constant)}"
    for node in graph.nodes:
        yield f"{indent}  {node_text(node)}"
        for name, attr in node.attrs.items():
            for body in attr if isinstance(attr, tuple) else (attr,):
                if isinstance(body, Graph):
                    yield from _graph_lines(body, name, indent + "    ")


def _typed(value: Value) -> str:
    return f"%{value.name}: {value.type}"


def _constant_text(constant: Constant) -> str:
    type_ = constant.type
    if type_.size > MAX_SHOWN_ELEMENTS or type_.dtype is DType.STRING:
        return f"constant {type_} ({constant.nbytes} bytes)"
    return f"constant {type_} {constant.array().tolist()}"


def _attr_text(value: Attr) -> str:
    if isinstance(value, Graph):
        return f"<{value.name}>"
    if isinstance(value, Constant):
        return _constant_text(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_attr_text, value))}]"
    return str(value) if isinstance(value, TensorType) else repr(value)
