"""Inlining of model-local functions, bounded so that a small file cannot expand without end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx

from kopt.errors import InvalidModelError

MAX_NODES = 1_000_000
"""Nodes a model may have after inlining."""

MAX_DEPTH = 32
"""How deep functions may call each other."""

_STAMP = "kopt.opset"  # key of the note on an inlined node


def inline(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with every call of a model-local function replaced by its body; the same object when it has none.

    Raises:
        InvalidModelError: recursion, too deep nesting or too many nodes.
    """
    if not model.functions:
        return model
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    for key in functions:
        _expanded_size(key, functions, sizes, (), name)
    total = sum(_node_size(node, functions, sizes, (), name) for node in model.graph.node)
    if total > MAX_NODES:
        raise InvalidModelError(
            f"inlining its functions makes {total} nodes of the model, at most {MAX_NODES} are taken",
            where=name,
            next_step="export fewer calls",
        )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    known = {entry.domain for entry in result.opset_import}
    for function in model.functions:
        result.opset_import.extend(entry for entry in function.opset_import if entry.domain not in known)
        known |= {entry.domain for entry in function.opset_import}
    _forget_stamps(result.graph.node)
    for function in result.functions:
        _forget_stamps(function.node)
    functions = {(function.domain, function.name): function for function in result.functions}
    _inline_graph(result.graph, functions, _Counter())
    del result.functions[:]
    return result


def imported_version(node: onnx.NodeProto, imports: Mapping[str, int]) -> int | None:
    """The version of the node's domain that it was written for: its function's import, or else the model's.

    Only for models that ``inline`` returned; None for a domain that nobody imports.
    """
    stamp = next((entry.value for entry in node.metadata_props if entry.key == _STAMP), "")
    return int(stamp) if stamp else imports.get("" if node.domain == "ai.onnx" else node.domain)


def _stamp(node: onnx.NodeProto, imports: Mapping[str, int]) -> None:
    """Note what the function of a node imports, which may differ from what the model imports."""
    if node.domain in imports:
        node.metadata_props.add(key=_STAMP, value=str(imports[node.domain]))
    for body in _bodies(node):
        for inner in body.node:
            _stamp(inner, imports)


def _forget_stamps(nodes: Iterable[onnx.NodeProto]) -> None:
    """Drop notes that a file came with."""
    for node in nodes:
        kept = [entry for entry in node.metadata_props if entry.key != _STAMP]
        if len(kept) != len(node.metadata_props):
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
        for body in _bodies(node):
            _forget_stamps(body.node)


class _Counter:
    """Numbers calls, so that names of inlined values stay unique."""

    def __init__(self) -> None:
        self.value = 0

    def next(self) -> int:
        self.value += 1
        return self.value


def _expanded_size(
    key: tuple[str, str],
    functions: dict[tuple[str, str], onnx.FunctionProto],
    sizes: dict[tuple[str, str], int],
    stack: tuple[tuple[str, str], ...],
    name: str,
) -> int:
    if key in sizes:
        return sizes[key]
    if key in stack or len(stack) > MAX_DEPTH:
        kind = "calls itself" if key in stack else f"nests deeper than {MAX_DEPTH}"
        raise InvalidModelError(f"function '{key[1]}' {kind}", where=name, next_step="export the model without functions")
    sizes[key] = sum(_node_size(node, functions, sizes, (*stack, key), name) for node in functions[key].node)
    return sizes[key]


def _node_size(
    node: onnx.NodeProto,
    functions: dict[tuple[str, str], onnx.FunctionProto],
    sizes: dict[tuple[str, str], int],
    stack: tuple[tuple[str, str], ...],
    name: str,
) -> int:
    own = _expanded_size((node.domain, node.op_type), functions, sizes, stack, name) if (node.domain, node.op_type) in functions else 1
    return own + sum(_node_size(inner, functions, sizes, stack, name) for body in _bodies(node) for inner in body.node)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _inline_graph(graph: onnx.GraphProto, functions: dict[tuple[str, str], onnx.FunctionProto], counter: _Counter) -> None:
    nodes = [inlined for node in graph.node for inlined in _inline_node(node, functions, counter)]
    del graph.node[:]
    graph.node.extend(nodes)


def _inline_node(node: onnx.NodeProto, functions: dict[tuple[str, str], onnx.FunctionProto], counter: _Counter) -> list[onnx.NodeProto]:
    for body in _bodies(node):
        _inline_graph(body, functions, counter)
    function = functions.get((node.domain, node.op_type))
    if function is None:
        return [node]
    prefix = f"{node.name or node.op_type}.{counter.next()}."
    names = dict(zip(function.input, [*node.input, *[""] * len(function.input)], strict=False))
    made = zip(function.output, node.output, strict=False)
    names.update((inner, outer) for inner, outer in made if outer and inner not in function.input)
    given = {attribute.name: attribute for attribute in function.attribute_proto} | {
        attribute.name: attribute for attribute in node.attribute
    }
    result = []
    for inner in function.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        _rename(copy, names, prefix)
        _bind_attributes(copy, given)
        _stamp(copy, {entry.domain: entry.version for entry in function.opset_import})
        copy.name = prefix + (inner.name or inner.op_type)
        result += _inline_node(copy, functions, counter)
    direct = [(inner, outer) for inner, outer in zip(function.output, node.output, strict=False) if outer and inner in function.input]
    for inner, outer in direct:  # an output that is an input
        source = dict(zip(function.input, node.input, strict=False)).get(inner, "")
        result.append(onnx.helper.make_node("Identity", [source], [outer], name=prefix + "Identity"))
    return result


def _rename(node: onnx.NodeProto, names: dict[str, str], prefix: str) -> None:
    node.input[:] = [names.get(name, prefix + name) if name else "" for name in node.input]
    for name in node.output:
        names.setdefault(name, prefix + name if name else "")
    node.output[:] = [names[name] if name else "" for name in node.output]
    for body in _bodies(node):
        inner = dict(names)
        for info in (*body.input, *body.initializer):
            inner[info.name] = info.name = prefix + info.name
        for held in body.node:
            _rename(held, inner, prefix)
        for info in body.output:
            info.name = inner.get(info.name, prefix + info.name)


def _bind_attributes(node: onnx.NodeProto, given: dict[str, onnx.AttributeProto]) -> None:
    """Replace references to the function's attributes by their values; absent ones are dropped."""
    bound = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            bound.append(attribute)
        elif attribute.ref_attr_name in given:
            copy = onnx.AttributeProto()
            copy.CopyFrom(given[attribute.ref_attr_name])
            copy.name = attribute.name
            bound.append(copy)
    del node.attribute[:]
    node.attribute.extend(bound)
    for body in _bodies(node):
        for inner in body.node:
            _bind_attributes(inner, given)
