"""Gradient names tensors of its graph; kopt's form of it holds the differentiated part as a body.

``com.kopt::Gradient`` takes the values of ``xs`` and then ``zs``, gives the derivatives of the body's sum by each of ``xs``,
and has the attributes ``body`` (a graph from xs and zs to y) and ``count`` (how many of the inputs are xs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kopt.errors import InvalidModelError
from kopt.frontend.upgrade import RawNode
from kopt.ir.graph import KOPT, Graph, Node, Value

TRAINING = "ai.onnx.preview.training"


def with_body(node: RawNode, nodes: Sequence[Node], visible: Mapping[str, Value]) -> RawNode:
    """Gradient(xs..., zs...; xs, zs, y) ==> com.kopt::Gradient(xs..., zs...; body, count).

    Args:
        node: the node as it is read.
        nodes: what lies before it in its graph, in order.
        visible: the values of its graph by name.

    Raises:
        InvalidModelError: a name that the graph does not have, or other inputs than xs and zs are.
    """
    names = [*_names(node, "xs"), *_names(node, "zs")]
    target = str(node.attrs.get("y", ""))
    missing = [name for name in (*names, target) if name not in visible]
    if missing or len(names) != len(node.inputs):
        what = f"does not find '{missing[0]}' in its graph" if missing else f"has {len(node.inputs)} inputs for {len(names)} names"
        raise InvalidModelError(f"Gradient {what}", where=node.loc, next_step="see the operator's ONNX specification")
    body = _between([visible[name] for name in names], visible[target], nodes, node)
    return replace(node, domain=KOPT, attrs={"body": body, "count": len(_names(node, "xs"))})


def _names(node: RawNode, attr: str) -> list[str]:
    held = node.attrs.get(attr, ())
    return [str(name) for name in held] if isinstance(held, tuple) else []


def _between(starts: Sequence[Value], target: Value, nodes: Sequence[Node], node: RawNode) -> Graph:
    """The nodes that make ``target`` from ``starts``, as a graph of values of its own; what else they read is captured."""
    moved = {value: Value(value.name, value.type) for value in starts}
    needed, kept = {target}, list[Node]()
    for candidate in reversed(nodes):
        if any(value in needed and value not in moved for value in candidate.outputs if value is not None):
            kept.append(candidate)
            needed.update(value for value in candidate.inputs if value is not None)
    inputs = tuple(moved[value] for value in starts)
    depends: list[Node] = []
    captured: dict[Value, None] = {}
    for original in reversed(kept):
        if not any(value in moved for value in original.inputs if value is not None):
            continue  # a constant of the differentiated part, which lies outside
        if any(True for _ in original.subgraphs()):
            raise InvalidModelError(
                f"Gradient through {original.op} is not supported", where=node.loc, next_step="export the model without control flow"
            )
        captured.update(dict.fromkeys(value for value in original.inputs if value is not None and value not in moved))
        moved.update({value: Value(value.name, value.type) for value in original.outputs if value is not None})
        read = tuple(None if value is None else moved.get(value, value) for value in original.inputs)
        made = tuple(None if value is None else moved[value] for value in original.outputs)
        depends.append(original.replace(inputs=read, outputs=made))
    if target not in moved:
        raise InvalidModelError(
            f"'{target.name}' does not depend on what Gradient is asked for",
            where=node.loc,
            next_step="correct the names in its attributes",
        )
    return Graph(f"gradient of {target.name}", inputs, (moved[target],), tuple(depends), {}, captures=tuple(captured))
