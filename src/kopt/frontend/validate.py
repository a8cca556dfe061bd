"""Structural checks of a ModelProto before anything is built from it; every rejection names node, operator and tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx

from kopt.errors import InvalidModelError
from kopt.frontend import functions
from kopt.frontend.tensors import constant_from_proto
from kopt.ir import spec

MAX_NESTING = 24
"""Levels of control-flow bodies."""

MAX_RANK = 1024
"""Axes that a node may name, either way."""

MAX_DENSIFIED_ELEMENTS = 2**28
_NEWEST_IR = onnx.IR_VERSION


@dataclass(frozen=True)
class _Context:
    """What nodes are checked against: imported versions by domain, and the model's own functions."""

    versions: Mapping[str, int]
    functions: set[tuple[str, str]]
    inlined: bool  # whether nodes may stem from functions that import versions of their own


def check_model(model: onnx.ModelProto, name: str, *, inlined: bool = False) -> None:
    """Versions, imports and names, then every node and value.

    Args:
        model: what to check.
        name: for messages.
        inlined: whether it comes from ``functions.inline``.

    Raises:
        InvalidModelError: what ONNX does not allow.
    """
    texts = (
        model.graph.name,
        *(entry.domain for entry in model.opset_import),
        *(part for f in model.functions for part in (f.domain, f.name)),
    )
    if not all(map(_is_plain, texts)):
        raise InvalidModelError(
            "a name of the model, a domain or a function is not plain text", where=name, next_step="export the model again"
        )
    if not 1 <= model.ir_version <= _NEWEST_IR:
        raise InvalidModelError(
            f"IR version {model.ir_version} does not exist (1 to {_NEWEST_IR} do)", where=name, next_step="export the model again"
        )
    domains = ["" if entry.domain == "ai.onnx" else entry.domain for entry in model.opset_import]
    if len(set(domains)) != len(domains):
        raise InvalidModelError("a domain is imported twice", where=name, next_step="keep one opset_import per domain")
    for domain, entry in zip(domains, model.opset_import, strict=True):
        newest = spec.DOMAIN_VERSIONS.get(domain)
        if entry.version < 1 or (newest is not None and domain != "com.microsoft" and entry.version > newest):
            raise InvalidModelError(
                f"opset {entry.version} of '{domain or 'ai.onnx'}' does not exist (1 to {newest} do)",
                where=name,
                next_step="export at an older opset",
            )
    keys = [(function.domain, function.name) for function in model.functions]
    if len(set(keys)) != len(keys):
        raise InvalidModelError("a function is defined twice", where=name, next_step="rename one of them")
    versions = {domain: entry.version for domain, entry in zip(domains, model.opset_import, strict=True)}
    if model.ir_version < 3:
        versions.setdefault("", 1)  # before imports existed
    _check_graph(model.graph, name, _Context(versions, set(keys), inlined), 0)


def _check_graph(graph: onnx.GraphProto, name: str, context: _Context, depth: int) -> None:
    if depth > MAX_NESTING:
        raise InvalidModelError(f"control flow nests deeper than {MAX_NESTING}", where=name, next_step="flatten the nested bodies")
    made: set[str] = set()
    for tensor in graph.initializer:
        _claim(tensor.name, made, name, "initializer")
    for sparse in graph.sparse_initializer:
        _claim(sparse.values.name, made, name, "sparse initializer")
    inputs: set[str] = set()
    for info in graph.input:
        if info.name in inputs:
            raise InvalidModelError(f"input '{info.name}' is declared twice", where=name, next_step="rename one of them")
        _check_name(info.name, name)
        inputs.add(info.name)
    made |= inputs
    for index, node in enumerate(graph.node):
        where = f"{name}: '{node.name or next(filter(None, node.output), '') or f'node {index}'}'"
        _check_node(node, where, context)
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else ()), *attribute.graphs):
                _check_graph(body, f"{where} ({attribute.name})", context, depth + 1)
        for output in filter(None, node.output):
            _claim(output, made, where, f"output of {node.op_type}")
    outputs = [info.name for info in graph.output]
    if depth == 0 and not outputs:
        raise InvalidModelError("the graph has no outputs", where=name, next_step="export the model again")


def _claim(value: str, made: set[str], where: str, kind: str) -> None:
    _check_name(value, where)
    if value in made:
        raise InvalidModelError(f"{kind} '{value}' is made twice", where=where, next_step="every value needs one producer")
    made.add(value)


def _is_plain(text: str | bytes) -> bool:
    """Whether a name is one line of text; protobuf hands out what is not UTF-8 as bytes."""
    return isinstance(text, str) and not any(character in text for character in "\0\n\r")


def _check_name(value: str, where: str) -> None:
    if not value or not _is_plain(value):
        raise InvalidModelError(f"the name {value!r} is not allowed", where=where, next_step="rename the value")


def _check_node(node: onnx.NodeProto, where: str, context: _Context) -> None:
    if not node.op_type or not all(_is_plain(text) for text in (node.op_type, node.name, node.domain, *node.input)):
        raise InvalidModelError(
            f"a node has the operator {node.op_type!r} and name {node.name!r}", where=where, next_step="export the model again"
        )
    seen: set[str] = set()
    for attribute in node.attribute:
        _check_name(attribute.name, where)
        if attribute.name in seen:
            raise InvalidModelError(f"{node.op_type} has attribute '{attribute.name}' twice", where=where, next_step="remove one")
        seen.add(attribute.name)
        if attribute.ref_attr_name:
            raise InvalidModelError(
                f"attribute '{attribute.name}' of {node.op_type} refers to a function's attribute outside a function",
                where=where,
                next_step="give the attribute a value",
            )
        if attribute.type == onnx.AttributeProto.UNDEFINED:
            raise InvalidModelError(
                f"attribute '{attribute.name}' of {node.op_type} has no type", where=where, next_step="export the model again"
            )
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and (len(node.attribute) != 1 or len(node.output) != 1):
        raise InvalidModelError("a Constant needs exactly one value and one output", where=where, next_step="export the model again")
    if (node.domain, node.op_type) not in context.functions:
        _check_against_schema(node, where, context)


def _check_against_schema(node: onnx.NodeProto, where: str, context: _Context) -> None:
    """Attributes and the number of inputs and outputs, by the schema of the version that the model imports."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = functions.imported_version(node, context.versions) if context.inlined else context.versions.get(domain)
    if version is None:
        raise InvalidModelError(
            f"{node.op_type} is of domain '{domain or 'ai.onnx'}', which the model does not import",
            where=where,
            next_step="add the domain to opset_import",
        )
    found = spec.schema(node.op_type, domain, version)
    if found is None:
        return
    for attribute in node.attribute:
        declared = found.attributes.get(attribute.name)
        if declared is None:
            known = ", ".join(sorted(found.attributes)) or "none"
            raise InvalidModelError(
                f"{node.op_type} of version {found.since_version} has no attribute '{attribute.name}'",
                where=where,
                next_step=f"remove it, or correct its name (known: {known})",
            )
        wanted: Any = declared.type  # an enum at run time, which onnx's stubs do not say
        if wanted.value != attribute.type:
            kind, expected = (onnx.AttributeProto.AttributeType.Name(number) for number in (attribute.type, wanted.value))
            raise InvalidModelError(
                f"attribute '{attribute.name}' of {node.op_type} has type {kind}, not {expected}",
                where=where,
                next_step="see the operator's ONNX specification",
            )
        _check_axes(attribute, node, where)
    for kind, count, least, most in (
        ("inputs", len(node.input), found.min_input, found.max_input),
        ("outputs", len(node.output), found.min_output, found.max_output),
    ):
        if not least <= count <= most:
            raise InvalidModelError(
                f"{node.op_type} has {count} {kind}, but version {found.since_version} takes {least} to {most}",
                where=where,
                next_step="see the operator's ONNX specification",
            )
    missing = [name for name, item in found.attributes.items() if item.required and all(given.name != name for given in node.attribute)]
    if missing:
        raise InvalidModelError(
            f"{node.op_type} lacks its attribute '{missing[0]}'", where=where, next_step="see the operator's ONNX specification"
        )


def _check_axes(attribute: onnx.AttributeProto, node: onnx.NodeProto, where: str) -> None:
    """Bounded axes: onnx's inference would cut them to 32 bits. It also takes numbers for flags that others take for set."""
    if attribute.name.endswith(("axis", "axes", "perm")) and any(abs(axis) > MAX_RANK for axis in (attribute.i, *attribute.ints)):
        raise InvalidModelError(
            f"attribute '{attribute.name}' of {node.op_type} names an axis beyond {MAX_RANK}",
            where=where,
            next_step="correct the attribute",
        )
    if attribute.name == "keepdims" and attribute.i not in (0, 1):
        raise InvalidModelError(f"attribute 'keepdims' of {node.op_type} is {attribute.i}", where=where, next_step="give it 0 or 1")


def densify(sparse: onnx.SparseTensorProto, model: str) -> onnx.TensorProto:
    """A sparse tensor as a dense one of bounded size.

    Raises:
        InvalidModelError: too large, or indices that do not fit.
    """
    where, shape = f"{model}: tensor '{sparse.values.name}'", tuple(sparse.dims)
    if any(dim < 0 for dim in shape) or prod(shape) > MAX_DENSIFIED_ELEMENTS:
        raise InvalidModelError(f"a sparse tensor of shape {list(shape)} is too large", where=where, next_step="store it dense")
    values, indices = (constant_from_proto(tensor, None, model).array() for tensor in (sparse.values, sparse.indices))
    limits = np.asarray(shape if indices.ndim == 2 else prod(shape))
    fitting = values.ndim == 1 and indices.shape in ((len(values),), (len(values), len(shape))) and indices.dtype == np.int64
    if not fitting:
        raise InvalidModelError(
            "a sparse tensor needs an index, of type int64, for each value", where=where, next_step="export the model again"
        )
    if ((indices < 0) | (indices >= limits)).any():
        raise InvalidModelError("a sparse tensor has indices outside its shape", where=where, next_step="export the model again")
    flat = np.ravel_multi_index(tuple(indices.T), shape) if indices.ndim == 2 else indices
    dense = np.zeros(prod(shape), values.dtype)
    dense[flat] = values
    return onnx.numpy_helper.from_array(dense.reshape(shape), sparse.values.name)
