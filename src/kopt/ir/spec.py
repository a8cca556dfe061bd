"""What the ONNX standard says of an operator: schema, attribute defaults, types of outputs.

The only file of ``kopt.ir`` that imports onnx. Operators outside the standard (``com.kopt``, ``com.microsoft``) register
a type rule with ``@type_rule``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kopt.errors import InvalidModelError
from kopt.ir.constant import Constant
from kopt.ir.graph import Attr, Graph, Node, Value
from kopt.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type

CANONICAL_OPSET = 28
"""The ai.onnx version every node of a Graph follows; ``kopt.frontend.upgrade`` brings older models there."""

DOMAIN_VERSIONS = {
    "": CANONICAL_OPSET,
    "ai.onnx.ml": 5,
    "ai.onnx.preview": 1,
    "ai.onnx.preview.training": 1,
    "com.microsoft": 1,
    "com.kopt": 1,
}

TypeRule: TypeAlias = Callable[[Node, Sequence[Type | None], Mapping[int, np.ndarray]], Sequence[Type]]
_TYPE_RULES: dict[tuple[str, str], TypeRule] = {}


def type_rule(domain: str, *ops: str) -> Callable[[TypeRule], TypeRule]:
    """Register how the output types of operators without an ONNX schema follow from their inputs.

    The rule gets the node, the input types, and the values of those inputs that are small constants, by position.
    """

    def register(rule: TypeRule) -> TypeRule:
        for op in ops:
            _TYPE_RULES[domain, op] = rule
        return rule

    return register


def has_type_rule(op: str, domain: str) -> bool:
    """Whether an operator without a schema has a registered type rule."""
    return (domain, op) in _TYPE_RULES


@lru_cache(maxsize=4096)
def schema(op: str, domain: str = "", version: int | None = None) -> onnx.defs.OpSchema | None:
    """The schema in force at ``version`` of ``domain`` (default: the canonical one), or None when there is none."""
    try:
        return onnx.defs.get_schema(op, version or DOMAIN_VERSIONS.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=4096)
def optional_outputs(op: str, domain: str = "") -> frozenset[int]:
    """Positions of the outputs that a node may leave out."""
    found = schema(op, domain)
    if found is None:
        return frozenset()
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return frozenset(k for k, output in enumerate(found.outputs) if output.option == optional)


def default_attrs(op: str, domain: str = "") -> dict[str, Attr]:
    """The attributes that have a default in the canonical schema."""
    return dict(_default_attrs(op, domain))


@lru_cache(maxsize=4096)
def _default_attrs(op: str, domain: str) -> tuple[tuple[str, Attr], ...]:
    found = schema(op, domain)
    if found is None:
        return ()
    defaults = ((name, attr.default_value) for name, attr in found.attributes.items())
    return tuple((name, attr_from_proto(value)) for name, value in defaults if value.type != onnx.AttributeProto.UNDEFINED)


def attr_from_proto(proto: onnx.AttributeProto) -> Attr:
    """An attribute without graphs: numbers, text (str where it is UTF-8), tensors as Constant, types."""
    value = helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, onnx.TensorProto):
        return Constant.of(numpy_helper.to_array(value))
    if isinstance(value, onnx.TypeProto):
        return type_from_proto(value)
    if proto.type in (onnx.AttributeProto.STRINGS, onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return tuple(_text(item) if isinstance(item, bytes) else item for item in value)
    if proto.type == onnx.AttributeProto.TENSORS:
        return tuple(Constant.of(numpy_helper.to_array(item)) for item in value)
    if proto.type == onnx.AttributeProto.TYPE_PROTOS:
        return tuple(type_from_proto(item) for item in value)
    return value  # type: ignore[no-any-return]


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def attr_to_proto(name: str, value: Attr, of: onnx.defs.OpSchema | None = None) -> onnx.AttributeProto:
    """The ONNX form of an attribute without graphs; the schema it is ``of`` tells the type of an empty list.

    Raises:
        TypeError: the value is or holds a Graph.
    """
    if isinstance(value, Constant):
        return helper.make_attribute(name, tensor_proto(value.array()))
    if isinstance(value, TensorType | SequenceType | OptionalType | MapType):
        return helper.make_attribute(name, type_to_proto(value))
    if isinstance(value, Graph):
        raise TypeError(f"attribute '{name}' is a graph")
    if isinstance(value, tuple):
        if not value and of is not None and name in of.attributes:
            wanted: Any = of.attributes[name].type  # an enum at run time, which onnx's stubs do not say
            return onnx.AttributeProto(name=name, type=wanted.value)
        if not value:  # without a schema: ints is what most empty lists are
            return helper.make_attribute(name, [], attr_type=onnx.AttributeProto.INTS)
        if isinstance(value[0], Constant):
            return helper.make_attribute(name, [tensor_proto(item.array()) for item in value if isinstance(item, Constant)])
        return helper.make_attribute(name, list(value))
    return helper.make_attribute(name, value)


def tensor_proto(array: np.ndarray, name: str = "") -> onnx.TensorProto:
    """``array`` as a TensorProto; sub-byte element types are packed."""
    if array.dtype == object:
        proto = onnx.TensorProto(name=name, data_type=onnx.TensorProto.STRING, dims=array.shape)
        proto.string_data.extend(item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist())
        return proto
    return numpy_helper.from_array(array, name)


def type_from_proto(proto: onnx.TypeProto) -> Type:
    """Kopt's type for an ONNX one; unnamed dimensions become "?" (the loader gives them numbers).

    Raises:
        InvalidModelError: a kind of type or element that ONNX does not define, or a negative dimension.
    """
    kind = proto.WhichOneof("value")
    if kind == "sequence_type":
        return SequenceType(type_from_proto(proto.sequence_type.elem_type))
    if kind == "optional_type":
        return OptionalType(type_from_proto(proto.optional_type.elem_type))
    if kind == "map_type":
        return MapType(_dtype_from_onnx(proto.map_type.key_type), type_from_proto(proto.map_type.value_type))
    if kind != "tensor_type":
        raise InvalidModelError(
            f"values of type {kind or 'undefined'} are not supported", next_step="use a tensor, a sequence, an optional or a map"
        )
    tensor = proto.tensor_type
    dtype = _dtype_from_onnx(tensor.elem_type)
    if not tensor.HasField("shape"):
        return TensorType(dtype, None)
    dims: list[int | str] = []
    for dim in tensor.shape.dim:
        if dim.WhichOneof("value") == "dim_value":
            if dim.dim_value < 0:
                raise InvalidModelError(f"dimension {dim.dim_value} is negative", next_step="use a name for an unknown dimension")
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or "?")
    return TensorType(dtype, tuple(dims))


def _dtype_from_onnx(number: int) -> DType:
    try:
        return DType.from_onnx(number)
    except KeyError:
        raise InvalidModelError(f"element type {number} does not exist", next_step="see onnx.TensorProto.DataType") from None


def type_to_proto(type_: Type, *, anonymous: bool = False) -> onnx.TypeProto:
    """The ONNX form of a type; dimensions named "?..." become unknown, unless ``anonymous`` asks to keep their names."""
    if isinstance(type_, SequenceType):
        return helper.make_sequence_type_proto(type_to_proto(type_.element, anonymous=anonymous))
    if isinstance(type_, OptionalType):
        return helper.make_optional_type_proto(type_to_proto(type_.element, anonymous=anonymous))
    if isinstance(type_, MapType):
        return helper.make_map_type_proto(type_.key.onnx, type_to_proto(type_.element, anonymous=anonymous))
    shape = None
    if type_.shape is not None:
        shape = [None if isinstance(dim, str) and dim.startswith("?") and not anonymous else dim for dim in type_.shape]
    return helper.make_tensor_type_proto(type_.dtype.onnx, shape)


MAX_DATA_ELEMENTS = 4096
"""Constants up to this many elements are shown to type inference: shapes, axes, pads, k."""


def infer_node(node: Node, constants: Mapping[int, np.ndarray] | None = None) -> tuple[Type, ...]:
    """Output types of a node, from its input types and the values of its small constant inputs (by position).

    Raises:
        InvalidModelError: types contradict the operator's schema.
        KeyError: an operator with neither a schema nor a type rule.
    """
    constants = constants or {}
    rule = _TYPE_RULES.get((node.domain, node.op))
    if rule is not None:
        return tuple(rule(node, [None if value is None else value.type for value in node.inputs], constants))
    found = schema(node.op, node.domain)
    if found is None:
        raise KeyError(node.qualified_op)
    _refuse_fatal(node)
    proto = helper.make_node(
        node.op, [f"i{k}" if value is not None else "" for k, value in enumerate(node.inputs)], [f"o{k}" for k in range(len(node.outputs))]
    )
    proto.domain = node.domain
    proto.attribute.extend(attr_to_proto(name, value, found) for name, value in node.attrs.items() if not _holds_graph(value))
    types = {f"i{k}": type_to_proto(value.type, anonymous=True) for k, value in enumerate(node.inputs) if value is not None}
    if node.op == "Range" and not node.domain:  # vectors of one element are taken for scalars: the standard's own AffineGrid has them
        types |= {name: type_to_proto(TensorType(type_.dtype, ())) for name, type_ in _single_elements(node)}
        constants = {k: array.reshape(()) if array.size == 1 else array for k, array in constants.items()}
    data = {f"i{k}": tensor_proto(array, f"i{k}") for k, array in constants.items() if array.size <= MAX_DATA_ELEMENTS}
    imports = [helper.make_opsetid(domain, version) for domain, version in DOMAIN_VERSIONS.items() if domain != "com.kopt"]
    try:
        result = onnx.shape_inference.infer_node_outputs(found, proto, types, data, opset_imports=imports)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError) as error:
        detail = str(error).strip().splitlines()[0].removeprefix("[ShapeInferenceError] ")
        shapes = ", ".join("-" if value is None else str(value.type) for value in node.inputs)
        raise InvalidModelError(
            f"{node.qualified_op} does not accept ({shapes}): {detail}", where=node.loc, next_step="see the operator's ONNX specification"
        ) from error
    for type_ in result.values():
        for dim in type_.tensor_type.shape.dim:
            if dim.dim_value < 0:  # onnx says -1 where a target shape is not known
                dim.Clear()
    return tuple(type_from_proto(result[f"o{k}"]) if f"o{k}" in result else TensorType(DType.F32, None) for k in range(len(node.outputs)))


def _refuse_fatal(node: Node) -> None:
    """Refuse what makes onnx's inference read beyond its arrays, which ends the process, or go on without end."""
    count = node.attrs.get("num_outputs")
    if node.op == "Split" and not node.domain and isinstance(count, int) and count != len(node.outputs):
        raise InvalidModelError(
            f"Split has {len(node.outputs)} outputs, but its num_outputs is {count}",
            where=node.loc,
            next_step="see the operator's ONNX specification",
        )
    batch = node.attrs.get("batch_dims")
    shapes = [value.type.shape for value in node.inputs if value is not None and isinstance(value.type, TensorType)]
    least = min((len(shape) for shape in shapes if shape is not None), default=64)
    if node.op == "GatherND" and isinstance(batch, int) and not 0 <= batch < max(least, 1):
        raise InvalidModelError(
            f"GatherND has {batch} batch dimensions", where=node.loc, next_step=f"its inputs allow 0 to {max(least, 1) - 1}"
        )
    equation = node.attrs.get("equation")
    if node.op == "Einsum" and not node.domain and not (isinstance(equation, str) and _EQUATION.fullmatch(re.sub(r"\s", "", equation))):
        raise InvalidModelError(
            f"Einsum has the equation {equation!r:.80}", where=node.loc, next_step="write letters or '...' for axes, as in 'ij,jk->ik'"
        )


_EQUATION = re.compile(r"(?:[A-Za-z]|\.\.\.)*(?:,(?:[A-Za-z]|\.\.\.)*)*(?:->(?:[A-Za-z]|\.\.\.)*)?")


def _single_elements(node: Node) -> list[tuple[str, TensorType]]:
    """Inputs that are vectors of one element, by the names that inference gives them."""
    typed = ((f"i{k}", value.type) for k, value in enumerate(node.inputs) if value is not None)
    return [(name, type_) for name, type_ in typed if isinstance(type_, TensorType) and type_.shape == (1,)]


def _holds_graph(value: Attr) -> bool:
    return isinstance(value, Graph) or (isinstance(value, tuple) and any(isinstance(item, Graph) for item in value))


def node_constants(graph: Graph, node: Node) -> dict[int, np.ndarray]:
    """The small constant inputs of a node, by position, as ``infer_node`` wants them."""
    found: dict[int, np.ndarray] = {}
    for index, value in enumerate(node.inputs):
        constant = None if value is None else graph.constants.get(value)
        if constant is not None and constant.type.size <= MAX_DATA_ELEMENTS:
            found[index] = constant.array()
    return found


def with_outputs(node: Node, types: Sequence[Type]) -> Node:
    """The node with fresh output values of the given types under the same names."""
    return node.replace(outputs=tuple(None if old is None else Value(old.name, new) for old, new in zip(node.outputs, types, strict=True)))


from kopt.ir import contrib_attention_types as _contrib_attention_types  # noqa: E402, F401  (type rules register themselves, and need the above)
from kopt.ir import contrib_quant_types as _contrib_quant_types  # noqa: E402, F401  (type rules register themselves, and need the above)
from kopt.ir import contrib_types as _contrib_types  # noqa: E402, F401  (type rules register themselves, and need the above)
from kopt.ir import epilogue_types as _epilogue_types  # noqa: E402, F401
from kopt.ir import gradient_types as _gradient_types  # noqa: E402, F401  (type rules register themselves, and need the above)
from kopt.ir import int8_types as _int8_types  # noqa: E402, F401
from kopt.ir import inverted_types as _inverted_types  # noqa: E402, F401
from kopt.ir import mixed_types as _mixed_types  # noqa: E402, F401  (type rules register themselves, and need the above)
from kopt.ir import ml_types as _ml_types  # noqa: E402, F401  (type rules register themselves, and need the above)
from kopt.ir import nhwc_types as _nhwc_types  # noqa: E402, F401  (its type rules register themselves, and need the above)
