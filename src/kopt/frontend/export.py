"""Writing a Graph as ONNX that other runtimes read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from kopt.errors import FileError, UnsupportedModelError, UsageError
from kopt.ir import spec
from kopt.ir.graph import KOPT, Graph, Node, Value

PREFERRED_OPSET = 21
"""The newest opset that the runtimes in wide use run whole."""

MAX_INLINE_BYTES = 2**31 - 2**20
"""Weights beyond this go to a file beside the model: protobuf ends at 2 GiB."""


def to_model(graph: Graph, opset: int | None = None) -> onnx.ModelProto:
    """The graph as a ModelProto.

    Args:
        graph: standard and com.microsoft operators.
        opset: ai.onnx version to stamp; by default the preferred one, or the lowest newer one that every node needs.

    Raises:
        UnsupportedModelError: operators without an ONNX form, or without one at ``opset``; all of them listed.
        UsageError: an opset that does not exist.
    """
    foreign = [(node.qualified_op, node.loc) for _, node in graph.walk() if node.domain == KOPT]
    if foreign:
        raise UnsupportedModelError(foreign, backend="onnx", reasons=["has no ONNX form"] * len(foreign))
    if opset is not None:
        _refuse_changed(graph, opset)
    version = opset or max((needed_opset(node) for _, node in graph.walk()), default=PREFERRED_OPSET)
    proto = _graph(graph, version, _Names(), top=True)
    domains = {node.domain for _, node in graph.walk()} - {""}
    imports = [helper.make_opsetid("", version), *(helper.make_opsetid(d, spec.DOMAIN_VERSIONS.get(d, 1)) for d in sorted(domains))]
    model = helper.make_model(proto, opset_imports=imports, producer_name="kopt", ir_version=10 if version <= 22 else onnx.IR_VERSION)
    helper.set_model_props(model, {key: value for key, value in graph.metadata.items() if not key.startswith("onnx.")})
    return model


def _refuse_changed(graph: Graph, opset: int) -> None:
    """Raise unless every node means the same at ``opset``."""
    if not 1 <= opset <= spec.CANONICAL_OPSET:
        raise UsageError(f"opset {opset} does not exist", next_step=f"give one from 13 to {spec.CANONICAL_OPSET}")
    changed = [node for _, node in graph.walk() if not node.domain and not _fits(node, opset)]
    if changed:
        needed = max(needed_opset(node) for node in changed)
        nodes = [(node.qualified_op, node.loc) for node in changed]
        raise UnsupportedModelError(nodes, backend=f"onnx opset {opset}", reasons=[f"export at opset {needed}"] * len(changed))


def needed_opset(node: Node) -> int:
    """The lowest opset from the preferred one on at which this node means the same."""
    if node.domain:
        return PREFERRED_OPSET
    versions = range(PREFERRED_OPSET, spec.CANONICAL_OPSET + 1)
    return next((version for version in versions if _fits(node, version)), spec.CANONICAL_OPSET)


def _fits(node: Node, version: int) -> bool:
    found = spec.schema(node.op, node.domain, version)
    if found is None or len(node.inputs) > found.max_input or len(node.outputs) > found.max_output:
        return False
    defaults = spec.default_attrs(node.op, node.domain)
    unknown = [name for name in node.attrs if name not in found.attributes]
    if any(name not in defaults or defaults[name] != node.attrs[name] for name in unknown):
        return False
    allowed = {constraint.type_param_str: set(constraint.allowed_type_strs) for constraint in found.type_constraints}
    values = [
        *zip(node.inputs, _formals(found.inputs, len(node.inputs)), strict=True),
        *zip(node.outputs, _formals(found.outputs, len(node.outputs)), strict=True),
    ]
    return all(value is None or formal not in allowed or _onnx_type(value) in allowed[formal] for value, formal in values)


def _formals(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[str]:
    """The type parameter of each position; a variadic last one repeats."""
    return [parameters[min(k, len(parameters) - 1)].type_str for k in range(count)] if parameters else [""] * count


def _onnx_type(value: Value) -> str:
    return _type_string(spec.type_to_proto(value.type))


def _type_string(proto: onnx.TypeProto) -> str:
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        return f"tensor({_ELEMENT_NAMES.get(proto.tensor_type.elem_type, '')})"
    if kind == "sequence_type":
        return f"seq({_type_string(proto.sequence_type.elem_type)})"
    return f"optional({_type_string(proto.optional_type.elem_type)})"


_ELEMENT_NAMES = {
    number: {"FLOAT": "float", "DOUBLE": "double", "FLOAT16": "float16"}.get(name, name.lower())
    for name, number in onnx.TensorProto.DataType.items()
}


class _Names:
    """Unique names for values: ONNX identifies values by name, a Graph by identity."""

    def __init__(self) -> None:
        self._names: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._nodes: dict[str, int] = {}

    def node(self, name: str) -> str:
        """A node's name; the second node that came out of one node of the user gets a number (ONNX Runtime refuses equal names)."""
        count = self._nodes.get(name, 0)
        self._nodes[name] = count + 1
        return self.node(f"{name}.{count}") if count else name

    def of(self, value: Value | None) -> str:
        if value is None:
            return ""
        if value not in self._names:
            name, count = value.name or "value", 0
            while name in self._taken:
                count += 1
                name = f"{value.name}.{count}"
            self._taken.add(name)
            self._names[value] = name
        return self._names[value]


def _graph(graph: Graph, version: int, names: _Names, *, top: bool = False) -> onnx.GraphProto:
    inputs = [helper.make_value_info(names.of(value), spec.type_to_proto(value.type)) for value in graph.inputs]
    outputs, copies = _outputs(graph, names, top)
    nodes = [_node(node, version, names) for node in graph.nodes]
    proto = helper.make_graph([*nodes, *copies], graph.name or "graph", inputs, outputs)
    for value, constant in graph.constants.items():
        proto.initializer.append(spec.tensor_proto(constant.array(), names.of(value)))
    return proto


def _outputs(graph: Graph, names: _Names, top: bool) -> tuple[list[onnx.ValueInfoProto], list[onnx.NodeProto]]:
    """Output declarations; a repeated output goes through an Identity, and so does what a body only passes on."""
    outputs, copies = [], []
    direct: set[Value] = set()
    for value in graph.outputs:
        name = names.of(value)
        if value in direct or (not top and graph.producer(value) is None):
            copy = Value(f"{value.name}.output", value.type)
            name = names.of(copy)
            copies.append(helper.make_node("Identity", [names.of(value)], [name], name=name))
        direct.add(value)
        outputs.append(helper.make_value_info(name, spec.type_to_proto(value.type)))
    return outputs, copies


def _node(node: Node, version: int, names: _Names) -> onnx.NodeProto:
    inputs, outputs = [names.of(value) for value in node.inputs], [names.of(value) for value in node.outputs]
    proto = helper.make_node(node.op, inputs, outputs, name=names.node(node.name), domain=node.domain)
    proto.attribute.extend(_attribute(node, name, version, names) for name in _kept(node, version))
    return proto


def _kept(node: Node, version: int) -> Iterator[str]:
    """Attributes the stamped version knows; the others have their default (``_fits`` saw to it)."""
    found = spec.schema(node.op, node.domain, version if not node.domain else None)
    for name in node.attrs:
        if found is None or name in found.attributes:
            yield name


def _attribute(node: Node, name: str, version: int, names: _Names) -> onnx.AttributeProto:
    value = node.attrs[name]
    if isinstance(value, Graph):
        return helper.make_attribute(name, _graph(value, version, names))
    if isinstance(value, tuple) and value and isinstance(value[0], Graph):
        return helper.make_attribute(name, [_graph(item, version, names) for item in value if isinstance(item, Graph)])
    return spec.attr_to_proto(name, value, spec.schema(node.op, node.domain))


def to_external_model(graph: Graph, places: Mapping[Value, tuple[str, int]], opset: int | None = None) -> onnx.ModelProto:
    """The graph as a ModelProto whose named constants lie in other files.

    Those weights are exported as if they were inputs, so that no second copy of their bytes is ever made.

    Args:
        graph: as for ``to_model``.
        places: constant -> (file beside the model, offset in bytes).
        opset: as for ``to_model``.

    Raises:
        UnsupportedModelError: as ``to_model``.
    """
    kept = {value: constant for value, constant in graph.constants.items() if value not in places}
    model = to_model(graph.replace(inputs=(*graph.inputs, *places), constants=kept), opset)
    declared = list(model.graph.input)[len(graph.inputs) :]
    for info, (value, (location, offset)) in zip(declared, places.items(), strict=True):
        tensor = model.graph.initializer.add(name=info.name, data_type=value.tensor.dtype.onnx, dims=value.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, entry in (("location", location), ("offset", offset), ("length", graph.constants[value].nbytes)):
            tensor.external_data.add(key=key, value=str(entry))
    del model.graph.input[len(graph.inputs) :]
    return model


def external_constants(graph: Graph, least_bytes: int) -> list[Value]:
    """Constants of at least that size whose bytes in ONNX are those in memory (no strings, no packed elements)."""
    return [
        value
        for value, constant in graph.constants.items()
        if constant.type.dtype.num_bits == constant.type.dtype.numpy.itemsize * 8 and constant.nbytes >= least_bytes
    ]


def save(graph: Graph, path: str | Path, *, opset: int | None = None, external: bool = False) -> None:
    """Write the graph as an .onnx file, whole or not at all.

    Args:
        graph: what to write.
        path: the file; one that exists is replaced.
        opset: as for ``to_model``.
        external: put weights of 1 KiB and more into ``PATH.data`` beside it, as is always done beyond 2 GB.

    Raises:
        FileError: the folder cannot be written.
        UnsupportedModelError: operators without an ONNX form.
    """
    target = Path(path)
    held = sum(constant.nbytes for part in _all_graphs(graph) for constant in part.constants.values())
    beside = f"{target.name}.data"
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            part = Path(folder, target.name)
            if external or held > MAX_INLINE_BYTES:
                places = _write_weights(graph, Path(folder, beside))
                part.write_bytes(to_external_model(graph, places, opset).SerializeToString())
            else:
                part.write_bytes(to_model(graph, opset).SerializeToString())
            for written in sorted(Path(folder).iterdir(), reverse=True):  # the weights before the model that points at them
                with written.open("rb") as file:
                    os.fsync(file.fileno())
                written.replace(target.parent / written.name)
    except OSError as error:
        raise FileError(
            f"cannot write the model: {error.strerror or error}", where=str(target), next_step="check the folder and its space"
        ) from None


def _write_weights(graph: Graph, path: Path) -> dict[Value, tuple[str, int]]:
    """Write the constants of 1 KiB and more at page boundaries, where they can be mapped; returns where each lies."""
    places: dict[Value, tuple[str, int]] = {}
    with path.open("wb") as file:
        for value in external_constants(graph, 1024):
            file.seek(-file.tell() % 4096, os.SEEK_CUR)
            places[value] = (path.name, file.tell())
            file.write(np.ascontiguousarray(graph.constants[value].array()).reshape(-1).view(np.uint8).data)
    return places


def _all_graphs(graph: Graph) -> set[Graph]:
    return {graph, *(holder for holder, _ in graph.walk())}
