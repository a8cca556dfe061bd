"""Reading an ONNX model into a Graph: bytes, external data, upgrade to the canonical opset, types of every value."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from kopt.errors import InvalidModelError, Location, UnsupportedModelError
from kopt.frontend import control_flow, functions, gradient, ml_text, scan8, upgrade, validate
from kopt.frontend.read import read_model
from kopt.frontend.tensors import Stored, constant_from_proto
from kopt.ir import spec
from kopt.ir.constant import Constant
from kopt.ir.graph import Attr, Graph, Node, Value
from kopt.ir.types import Dim, DType, MapType, OptionalType, SequenceType, TensorType, Type


def load(model: str | Path | bytes | onnx.ModelProto) -> Graph:
    """A model as a canonical, typed, verified Graph. Weights stay in their file until they are read.

    Args:
        model: path of an .onnx file, its bytes, or a ModelProto (which is not changed).

    Raises:
        FileError: the file cannot be read.
        InvalidModelError: not valid ONNX; the message names node, operator and tensor.
        UnsupportedModelError: operators that kopt does not know, all of them listed.
    """
    read = read_model(model)
    proto, name = read.proto, read.name
    validate.check_model(proto, name)
    inlined = functions.inline(proto, name)
    if inlined is not proto:
        validate.check_model(inlined, name, inlined=True)
    opsets = {entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in inlined.opset_import}
    reader = _Reader(name, read.folder, opsets, stamped=inlined is not proto)
    graph = reader.graph(inlined.graph, {}, apart=read.apart)
    if reader.unknown:
        raise UnsupportedModelError(reader.unknown, backend="kopt", reasons=["unknown operator"] * len(reader.unknown))
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    metadata["onnx.opset"] = str(opsets.get("", 0))
    graph = graph.replace(name=Path(name).stem if isinstance(model, str | Path) else name, metadata=metadata)
    graph.verify()
    return graph


@dataclass
class _Scope:
    """What is visible while one graph is read."""

    values: dict[str, Value]
    declared: Mapping[str, Type]
    constants: dict[Value, Constant] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    outer: Mapping[str, Value] = field(default_factory=dict)
    captured: dict[Value, None] = field(default_factory=dict)

    def read(self, name: str) -> Value | None:
        if not name:
            return None
        found = self.values.get(name)
        if found is None and name in self.outer:
            found = self.outer[name]
            self.captured[found] = None
        return found


class _Reader:
    """Turns GraphProtos into Graphs; bodies of control flow see the values of their enclosing graphs."""

    def __init__(self, model: str, folder: Path | None, opsets: Mapping[str, int], *, stamped: bool) -> None:
        self.stamped = stamped  # whether nodes may come from functions that import versions of their own
        self.model = model
        self.folder = folder
        self.opsets = opsets
        self.unknown: list[tuple[str, Location]] = []
        self._anonymous = 0
        self._rounds = 0

    def graph(
        self,
        proto: onnx.GraphProto,
        outer: Mapping[str, Value],
        *,
        body_inputs: list[Type | None] | None = None,
        apart: Mapping[int, Stored] = MappingProxyType({}),
    ) -> Graph:
        """One graph.

        Args:
            proto: the graph.
            outer: values of the enclosing graphs.
            body_inputs: types of the inputs of a body, from the node that holds it.
            apart: initializers whose bytes are not in ``proto``, by position.
        """
        declared = {info.name: self._declared(info) for info in (*proto.value_info, *proto.output) if info.type.WhichOneof("value")}
        scope = _Scope({}, declared, outer=outer)
        for position, tensor in enumerate((*proto.initializer, *map(self._dense, proto.sparse_initializer))):
            self._add_constant(scope, tensor.name, constant_from_proto(tensor, self.folder, self.model, apart.get(position)))
        inputs = []
        for position, info in enumerate(proto.input):
            if info.name in scope.values:  # IR < 4 lists initializers as inputs: their default is what counts
                if info.type.WhichOneof("value"):
                    _merge(scope.values[info.name].type, self._declared(info), where=f"{self.model}: initializer '{info.name}'")
                continue
            known = self._declared(info) if info.type.WhichOneof("value") else None
            given = body_inputs[position] if body_inputs and position < len(body_inputs) else None
            type_ = _fitted(known, given) if body_inputs else _merge(known, given, where=f"{self.model}: input '{info.name}'")
            if type_ is None and body_inputs is None:
                raise InvalidModelError(
                    f"input '{info.name}' has no type", where=self.model, next_step="declare its element type and shape"
                )
            value = Value(info.name, type_ or _UNKNOWN)
            scope.values[info.name] = value
            inputs.append(value)
        for node in proto.node:
            self._node(node, scope)
        outputs = tuple(self._output(info.name, scope) for info in proto.output)
        return Graph(proto.name or self.model, tuple(inputs), outputs, tuple(scope.nodes), scope.constants, captures=tuple(scope.captured))

    def _output(self, name: str, scope: _Scope) -> Value:
        found = scope.read(name)
        if found is None:
            raise InvalidModelError(
                f"graph output '{name}' is made by no node", where=self.model, next_step="remove the output or its name"
            )
        return found

    def _node(self, proto: onnx.NodeProto, scope: _Scope) -> None:
        loc = Location(self.model, (proto.name or next(filter(None, proto.output), proto.op_type),))
        try:
            self._read_node(proto, loc, scope)
        except InvalidModelError as error:
            if str(error.where):
                raise
            raise InvalidModelError(error.what, where=loc, next_step=error.next_step) from None
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:  # a shape no check foresaw
            raise InvalidModelError(
                f"{proto.op_type} is malformed: {type(error).__name__}: {error}", where=loc, next_step="export the model again"
            ) from error

    def _read_node(self, proto: onnx.NodeProto, loc: Location, scope: _Scope) -> None:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        version = (functions.imported_version(proto, self.opsets) if self.stamped else self.opsets.get(domain)) or 1
        if domain == "" and proto.op_type == "Constant":
            self._add_constant(scope, proto.output[0], _constant_node(proto, self.folder, self.model))
            return
        if scan8.is_old(proto, domain, version):
            proto = scan8.batched(proto, loc)
        inputs = [self._read(name, proto, loc, scope) for name in proto.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        attrs = self._attrs(proto, inputs, scope)
        raw = upgrade.RawNode(proto.op_type, domain, list(inputs), list(proto.output), attrs, loc)
        if (domain, proto.op_type) == (gradient.TRAINING, "Gradient"):
            raw = gradient.with_body(raw, scope.nodes, scope.values)
        emit = upgrade.Emitter(scope.constants, self._fresh)
        canonical = ml_text.on_integers(raw, emit) if domain == ml_text.ML else upgrade.upgrade(raw, version, emit)
        for item in canonical:
            self._emit(item, scope)

    def _read(self, name: str, proto: onnx.NodeProto, loc: Location, scope: _Scope) -> Value | None:
        found = scope.read(name)
        if name and found is None:
            raise InvalidModelError(
                f"{proto.op_type} reads '{name}', which nothing before it makes",
                where=loc,
                next_step="check for a cycle or a missing initializer",
            )
        return found

    def _emit(self, raw: upgrade.RawNode, scope: _Scope) -> None:
        inputs = tuple(scope.values[value] if isinstance(value, str) else value for value in raw.inputs)
        if spec.schema(raw.op, raw.domain) is None and not spec.has_type_rule(raw.op, raw.domain):
            self.unknown.append((f"{raw.domain}::{raw.op}" if raw.domain else raw.op, raw.loc))
            types: Sequence[Type] = tuple(scope.declared.get(name, _UNKNOWN) for name in raw.outputs)
            attrs = raw.attrs
        else:
            attrs = {**spec.default_attrs(raw.op, raw.domain), **raw.attrs}
            probe = Node(raw.op, inputs, (None,) * len(raw.outputs), attrs, raw.loc, raw.domain)
            types = self._types(probe, scope)
        outputs: list[Value | None] = []
        for name, inferred in zip(raw.outputs, types, strict=True):
            if not name:
                outputs.append(None)
                continue
            type_ = _merge(inferred, scope.declared.get(name), where=f"{raw.loc}", op=raw.op, name=name) or inferred
            value = Value(name, self._named(type_))
            scope.values[name] = value
            outputs.append(value)
        version = spec.DOMAIN_VERSIONS.get(raw.domain, 1)
        scope.nodes.append(Node(raw.op, inputs, tuple(outputs), attrs, raw.loc, raw.domain, version))

    def _types(self, node: Node, scope: _Scope) -> Sequence[Type]:
        if not node.domain and node.op in control_flow.CONTROL_FLOW:
            return self._body_types(node)
        data: dict[int, np.ndarray] = {}
        for index, value in enumerate(node.inputs):
            constant = scope.constants.get(value) if value is not None else None
            if constant is not None and constant.type.size <= spec.MAX_DATA_ELEMENTS:
                data[index] = constant.array()
        return spec.infer_node(node, data)

    def _body_types(self, node: Node) -> Sequence[Type]:
        missing = {"If": ("then_branch", "else_branch")}.get(node.op, ("body",))
        if any(not isinstance(node.attrs.get(name), Graph) for name in missing):
            raise InvalidModelError(f"{node.op} lacks a body", where=node.loc, next_step="export the model again")
        control_flow.check_borders(node)
        types = [self._named(type_) for type_ in control_flow.output_types(node)]
        if len(types) < len(node.outputs):
            raise InvalidModelError(
                f"{node.op} has {len(node.outputs)} outputs but its body makes {len(types)}",
                where=node.loc,
                next_step="export the model again",
            )
        return types[: len(node.outputs)]

    def _attrs(self, proto: onnx.NodeProto, inputs: list[Value | None], scope: _Scope) -> dict[str, Attr]:
        attrs: dict[str, Attr] = {}
        bodies: list[onnx.AttributeProto] = []
        for attribute in proto.attribute:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                bodies.append(attribute)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                attrs[attribute.name] = constant_from_proto(attribute.t, self.folder, self.model)
            else:
                attrs[attribute.name] = spec.attr_from_proto(attribute)
        if bodies:
            fed = control_flow.body_inputs(proto.op_type, attrs, [None if value is None else value.type for value in inputs])
            for attribute in bodies:  # after the other attributes, which say what a body is fed
                if attribute.type == onnx.AttributeProto.GRAPH:
                    attrs[attribute.name] = self._body(attribute.g, proto.op_type, fed, scope)
                else:
                    attrs[attribute.name] = tuple(self._body(item, proto.op_type, fed, scope) for item in attribute.graphs)
        return attrs

    def _body(self, proto: onnx.GraphProto, op: str, fed: list[Type | None], scope: _Scope) -> Graph:
        """A body, typed for every iteration: that of Loop is read again with wider types until these hold what it makes."""
        visible = ChainMap({}, scope.values, scope.outer)  # type: ignore[arg-type]
        mark, opened = len(self.unknown), set[str]()
        body = self.graph(proto, visible, body_inputs=fed)
        wider = control_flow.widened(fed, body, opened) if op == "Loop" else None
        while wider is not None:
            self._rounds += 1
            if self._rounds > _MAX_LOOP_ROUNDS:  # nested loops would multiply rounds without end
                wider = [TensorType(type_.dtype, None) if isinstance(type_, TensorType) and type_.shape else type_ for type_ in wider]
            fed = [None if type_ is None else self._named(type_) for type_ in wider]
            opened |= {str(dim) for type_ in fed if isinstance(type_, TensorType) for dim in type_.shape or () if str(dim)[0] == "?"}
            del self.unknown[mark:]
            body = self.graph(proto, visible, body_inputs=fed)
            wider = None if self._rounds > _MAX_LOOP_ROUNDS else control_flow.widened(fed, body, opened)
        for value in body.captures:  # a body's captures are this graph's reads, or its own captures
            if scope.values.get(value.name) is not value:
                scope.captured[value] = None
        return body

    def _add_constant(self, scope: _Scope, name: str, constant: Constant) -> None:
        value = Value(name, constant.type)
        scope.values[name] = value
        scope.constants[value] = constant

    def _declared(self, info: onnx.ValueInfoProto) -> Type:
        if any(not isinstance(dim.dim_param, str) for dim in info.type.tensor_type.shape.dim):
            raise InvalidModelError(f"a dimension of '{info.name}' has a name that is not text", where=self.model, next_step="rename it")
        try:
            return self._named(spec.type_from_proto(info.type))
        except InvalidModelError as error:
            raise InvalidModelError(error.what, where=f"{self.model}: '{info.name}'", next_step=error.next_step) from None

    def _named(self, type_: Type) -> Type:
        """The type with every anonymous dimension given a name of its own."""
        if isinstance(type_, TensorType):
            if type_.shape is None or "?" not in type_.shape:
                return type_
            return TensorType(type_.dtype, tuple(self._fresh_dim() if dim == "?" else dim for dim in type_.shape))
        if isinstance(type_, SequenceType):
            return SequenceType(self._named(type_.element))
        if isinstance(type_, MapType):
            return MapType(type_.key, self._named(type_.element))
        return OptionalType(self._named(type_.element))

    def _fresh_dim(self) -> str:
        self._anonymous += 1
        return f"?{self._anonymous}"

    def _fresh(self, hint: str) -> str:
        self._anonymous += 1
        return f"{hint}.kopt{self._anonymous}"

    def _dense(self, sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
        return validate.densify(sparse, self.model)


_UNKNOWN = TensorType(DType.F32, None)
_MAX_LOOP_ROUNDS = 256
"""How often bodies of loops are read again in one model, to find types that hold on every iteration."""


def _constant_node(proto: onnx.NodeProto, folder: Path | None, model: str) -> Constant:
    """The value of a Constant node, whichever attribute carries it. Source: ONNX Constant-13."""
    attribute = proto.attribute[0]
    if attribute.name == "value":
        return constant_from_proto(attribute.t, folder, model)
    if attribute.name == "sparse_value":
        return Constant.of(onnx.numpy_helper.to_array(validate.densify(attribute.sparse_tensor, model)))
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name in ("value_float", "value_floats"):
        return Constant.of(np.asarray(value, np.float32))
    if attribute.name in ("value_int", "value_ints"):
        return Constant.of(np.asarray(value, np.int64))
    return Constant.of(np.asarray(value, object))


def _merge(first: Type | None, second: Type | None, *, where: str, op: str = "", name: str = "") -> Type | None:
    """What two statements about one value say together.

    Raises:
        InvalidModelError: they contradict each other.
    """
    if first is None or second is None:
        return first or second
    if isinstance(first, TensorType) and isinstance(second, TensorType):
        compatible = first.dtype == second.dtype or first == _UNKNOWN  # the latter: inference is silent
        if first.shape is not None and second.shape is not None:
            compatible = compatible and len(first.shape) == len(second.shape)
            compatible = compatible and not any(
                isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(first.shape, second.shape, strict=False)
            )
        if not compatible:
            subject = f"{op} makes '{name}' as {first}" if op else f"it is {first}"
            raise InvalidModelError(
                f"{subject}, but the model declares {second}", where=where, next_step="correct the declared type or the node"
            )
        dtype = second.dtype if first.shape is None and second.dtype != first.dtype else first.dtype
        if first.shape is None or second.shape is None:
            return TensorType(dtype, first.shape if first.shape is not None else second.shape)
        return TensorType(dtype, tuple(_tighter(a, b) for a, b in zip(first.shape, second.shape, strict=True)))
    return first


def _fitted(declared: Type | None, fed: Type | None) -> Type | None:
    """The type of a body's input: what it is fed, with the body's names for dimensions that have none."""
    if not isinstance(declared, TensorType) or not isinstance(fed, TensorType):
        return fed or declared
    if fed.shape is None or declared.shape is None or len(declared.shape) != len(fed.shape):
        return fed
    named = (a if str(b)[0] == "?" and isinstance(a, str) and a[0] != "?" else b for a, b in zip(declared.shape, fed.shape, strict=True))
    return TensorType(fed.dtype, tuple(named))


def _tighter(a: Dim, b: Dim) -> Dim:
    """The more telling of two dimensions: a number, then a user's name, then an anonymous one."""
    return min((a, b), key=lambda dim: (not isinstance(dim, int), isinstance(dim, str) and dim.startswith("?")))
