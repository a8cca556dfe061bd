"""What the fuzzer does to a valid model: one function per kind of damage, each drawing from the random numbers it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper

NUMBERS = (0, 1, -1, 2, 3, 5, 7, 31, 127, 255, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-38, 1e38, float("inf"), float("-inf"), float("nan"))
NAMES = ("", "x", "y", "a", "a\0b", "a\nb", "\r", "é" * 9, "n" * 70_000, "../../etc/passwd", "N", "?1", "-1", "ai.onnx", "%s{0}", "\u2028")
OPERATORS = (
    "Relu",
    "Add",
    "Conv",
    "Reshape",
    "Loop",
    "If",
    "Concat",
    "Gather",
    "Cast",
    "Resize",
    "Einsum",
    "LSTM",
    "Shape",
    "NonZero",
    "Nope",
)
_INTEGERS = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)

Mutation = Callable[[onnx.ModelProto, Random], None]


def mutated(seeds: dict[str, bytes], index: int, seed: int = 0) -> tuple[str, bytes]:
    """Model number ``index`` of a stream: what was done to which seed, and the bytes. The same in every run."""
    rng = Random(f"{seed}:{index}")
    name = rng.choice(list(seeds))
    content, done = seeds[name], [name]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        if rng.random() < 0.1:
            done.append("bytes")
            content = damage_bytes(content, rng)
            continue
        proto = onnx.ModelProto()
        try:
            proto.ParseFromString(content)
        except DecodeError:  # bytes that were damaged before
            break
        mutation = rng.choice(MUTATIONS)
        done.append(mutation.__name__)
        try:
            mutation(proto, rng)
            content = proto.SerializeToString()
        except (IndexError, ValueError, TypeError, DecodeError):  # nothing there to damage in this way
            done[-1] += " (not possible)"
    return ", ".join(done), content


def damage_bytes(content: bytes, rng: Random) -> bytes:
    """Bytes changed, cut off, left out, put in or doubled."""
    held = bytearray(content)
    at, length = rng.randrange(len(held) + 1), rng.randrange(1, 9)
    kind = rng.randrange(6)
    if kind == 0 and held:
        held[at % len(held)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del held[at:]
    elif kind == 2:
        del held[at : at + length]
    elif kind == 3:
        held[at:at] = rng.randbytes(length)
    elif kind == 4:
        held[at:at] = held[at : at + 8 * length]
    else:
        held[at : at + length] = b"\xff" * length
    return bytes(held)


def _messages(message: Any) -> Iterator[Any]:
    """The message and all within it."""
    stack = [message]
    while stack:
        item = stack.pop()
        yield item
        for field, value in item.ListFields():
            if field.message_type is not None:
                stack.extend([value] if hasattr(value, "ListFields") else value)


def _graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    return [item for item in _messages(proto) if isinstance(item, onnx.GraphProto)]


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [item for item in _messages(proto) if isinstance(item, onnx.NodeProto)]


def _of(proto: onnx.ModelProto, kind: type, rng: Random) -> Any:
    return rng.choice([item for item in _messages(proto) if isinstance(item, kind)])


def _value(field: Any, rng: Random) -> Any:
    """A value that a scalar field takes and nobody expects."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([item.number for item in field.enum_type.values])
    if field.cpp_type in _INTEGERS:
        small = field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32)
        fitting = [number for number in NUMBERS if not small or -(2**31) <= number < 2**31]
        return rng.choice([number for number in fitting if number >= 0 or "UINT" not in str(field.type)])
    if field.cpp_type in _FLOATS:
        return rng.choice(FLOATS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice((b"", b"\0", b"\xff\xfe", b"a" * 5, b"7" * 4000))
    return rng.choice(NAMES)


def change_field(proto: onnx.ModelProto, rng: Random) -> None:
    """Any field of any message: a new value, emptied, one element more, less, or elsewhere."""
    message = rng.choice(list(_messages(proto)))
    field, held = rng.choice(message.ListFields())
    if message is proto and field.name == "graph":
        return
    scalar = field.message_type is None
    if not hasattr(held, "append"):
        if scalar and rng.random() < 0.8:
            setattr(message, field.name, _value(field, rng))
        else:
            message.ClearField(field.name)
        return
    at, kind = rng.randrange(len(held)), rng.randrange(4)
    if kind == 0:
        del held[at]
    elif kind == 1:
        held.append(held[at])
    elif kind == 2 and scalar:
        held[at] = _value(field, rng)
    else:
        items = [held.pop() for _ in range(len(held))] if scalar else list(held)
        rng.shuffle(items)
        copies = items if scalar else [type(item).FromString(item.SerializeToString()) for item in items]
        del held[:]
        held.extend(copies)


def change_attribute(proto: onnx.ModelProto, rng: Random) -> None:
    """Another value, type or name for an attribute; one too many; one of another node."""
    found = [(node, attribute) for node in _nodes(proto) for attribute in node.attribute]
    node, attribute = rng.choice(found)
    kind = rng.randrange(7)
    if kind == 0:
        attribute.type = rng.choice(AttributeProto.AttributeType.values())
    elif kind == 1:
        attribute.name = rng.choice((*NAMES, *(other.name for _, other in found)))
    elif kind == 2:
        node.attribute.append(rng.choice(found)[1])
    elif kind == 3:
        attribute.ref_attr_name = rng.choice(("alpha", "a\n", "slope"))
    elif attribute.type == AttributeProto.INT:
        attribute.i = rng.choice(NUMBERS)
    elif attribute.type == AttributeProto.INTS:
        attribute.ints[:] = [rng.choice((*NUMBERS, *attribute.ints)) for _ in range(rng.randrange(6))]
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice((b"", b"\xff", b"SAME_UPPER", b"ij,jk->", b"...i->i...", b"linear", b"a\0b", b"," * 5000))
    else:
        node.attribute.remove(attribute)


def add_attribute(proto: onnx.ModelProto, rng: Random) -> None:
    """An attribute that some operators have, with some value."""
    names = ("axis", "axes", "perm", "to", "pads", "group", "kernel_shape", "value", "body", "equation", "keepdims", "blocksize", "mode")
    values: tuple[Any, ...] = (rng.choice(NUMBERS), 0.5, "text", [rng.choice(NUMBERS)], [0, 0], helper.make_tensor("v", 1, [1], [2.0]))
    rng.choice(_nodes(proto)).attribute.append(helper.make_attribute(rng.choice(names), rng.choice(values)))


def change_shape(proto: onnx.ModelProto, rng: Random) -> None:
    """Declared dimensions and element types: huge, negative, contradicting, gone, or of another rank."""
    type_ = _of(proto, onnx.TypeProto.Tensor, rng)
    kind = rng.randrange(6)
    if kind == 0:
        type_.elem_type = rng.choice((0, 1, 7, 8, 9, 10, 16, 17, 22, 25, 99, -1))
    elif kind == 1:
        type_.ClearField("shape")
    elif kind == 2:
        type_.shape.dim.add(dim_value=rng.choice(NUMBERS))
    elif kind == 3:
        rng.choice(type_.shape.dim).dim_param = rng.choice(NAMES)
    elif kind == 4:
        del type_.shape.dim[rng.randrange(len(type_.shape.dim))]
    else:
        rng.choice(type_.shape.dim).dim_value = rng.choice(NUMBERS)


def declare(proto: onnx.ModelProto, rng: Random) -> None:
    """A type for a value within the graph, true or not, or of a kind that is no tensor."""
    name = rng.choice([output for node in proto.graph.node for output in node.output])
    info = helper.make_tensor_value_info(name, rng.choice((1, 7, 9, 10)), [rng.choice(NUMBERS) for _ in range(rng.randrange(4))])
    if rng.random() < 0.3:
        info = helper.make_tensor_sequence_value_info(name, 1, [2])
    rng.choice((proto.graph.value_info, proto.graph.value_info, proto.graph.input, proto.graph.output)).append(info)


def change_name(proto: onnx.ModelProto, rng: Random) -> None:
    """A name of a value, node, operator, domain, dimension or function: odd, or that of another."""
    node = rng.choice(_nodes(proto))
    others = [name for other in _nodes(proto) for name in (*other.input, *other.output)]
    name = rng.choice((*NAMES, *others, *others))
    kind = rng.randrange(7)
    if kind == 0:
        node.name = name
    elif kind == 1:
        node.input[rng.randrange(len(node.input))] = name
    elif kind == 2:
        node.output[rng.randrange(len(node.output))] = name
    elif kind == 3:
        rng.choice((*proto.graph.input, *proto.graph.output, *proto.graph.initializer)).name = name
    elif kind == 4:
        node.domain = rng.choice((*NAMES, "com.microsoft", "ai.onnx.ml", "com.kopt", "ai.onnx.preview.training", "f"))
    elif kind == 5:
        proto.graph.name = name
    else:
        node.op_type = rng.choice((*NAMES, *OPERATORS))


def swap_operator(proto: onnx.ModelProto, rng: Random) -> None:
    """Another operator on the same values, with or without the attributes."""
    schemas = onnx.defs.get_all_schemas()
    node, schema = rng.choice(_nodes(proto)), rng.choice(schemas)
    node.op_type, node.domain = schema.name, schema.domain
    if rng.random() < 0.7:
        del node.attribute[:]
    if schema.domain and all(entry.domain != schema.domain for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(schema.domain, 1))


def change_arity(proto: onnx.ModelProto, rng: Random) -> None:
    """Inputs or outputs more or fewer."""
    node = rng.choice(_nodes(proto))
    names = rng.choice((node.input, node.output))
    if rng.random() < 0.5 and names:
        del names[rng.randrange(len(names))]
    else:
        names.extend(rng.choice((["extra"], [""] * 3, ["x"] * 2, list(node.input), [f"o{number}" for number in range(200)])))


def change_versions(proto: onnx.ModelProto, rng: Random) -> None:
    """The IR and opset versions: none, another one, ones that do not exist, imports twice."""
    kind = rng.randrange(4)
    if kind == 0:
        proto.ir_version = rng.choice((-1, 0, 1, 2, 3, 7, 13, 99, 2**62))
    elif kind == 1:
        rng.choice(proto.opset_import).version = rng.choice((*range(-1, 30), 2**31, 2**62))
    elif kind == 2:
        proto.opset_import.append(helper.make_opsetid(rng.choice(("", "ai.onnx", "f", "com.microsoft", "a\0")), rng.randrange(30)))
    else:
        del proto.opset_import[:]


def reorder(proto: onnx.ModelProto, rng: Random) -> None:
    """Cycles and nodes that read what comes later."""
    graph = rng.choice(_graphs(proto))
    if rng.random() < 0.5:
        node, other = rng.choice(graph.node), rng.choice(graph.node)
        node.input[rng.randrange(len(node.input))] = rng.choice(other.output)
    else:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        rng.shuffle(nodes)
        del graph.node[:]
        graph.node.extend(nodes)


def duplicate(proto: onnx.ModelProto, rng: Random) -> None:
    """A node, input, initializer, output or function a second time."""
    graph = rng.choice(_graphs(proto))
    items = rng.choice((graph.node, graph.input, graph.output, graph.initializer, graph.sparse_initializer, proto.functions))
    items.append(rng.choice(items))


def change_tensor(proto: onnx.ModelProto, rng: Random) -> None:
    """Sizes that do not fit the bytes, other element types, values at the limits, two storages, data in files."""
    tensor = _of(proto, TensorProto, rng)
    kind = rng.randrange(7)
    if kind == 0:
        tensor.dims[:] = [rng.choice((*NUMBERS, *tensor.dims)) for _ in range(rng.randrange(5))]
    elif kind == 1:
        tensor.data_type = rng.choice((*range(27), 99))
    elif kind == 2:
        tensor.raw_data = rng.randbytes(rng.choice((0, 1, 4, 8, 24)))
    elif kind == 3:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", rng.choice(NAMES)), ("offset", rng.choice(("0", "-1", "x", str(2**63))))):
            tensor.external_data.add(key=key, value=value)
    elif kind == 4 and tensor.data_type == TensorProto.INT64:
        values = [rng.choice(NUMBERS) for _ in range(rng.randrange(1, 5))]
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.INT64, [len(values)] * len(tensor.dims), values))
    elif kind == 5:
        tensor.dims.append(rng.choice((0, 1)))
    else:
        tensor.int64_data.extend(rng.choice(NUMBERS) for _ in range(3))


def set_integers(proto: onnx.ModelProto, rng: Random) -> None:
    """Other numbers where a model has integers: axes, sizes, indices, counts of loops."""
    found = [item for item in _messages(proto) if isinstance(item, TensorProto) and item.data_type == TensorProto.INT64]
    tensor = rng.choice(found)
    count = max(1, len(tensor.int64_data) or len(tensor.raw_data) // 8)
    values = [rng.choice(NUMBERS) for _ in range(count)]
    tensor.ClearField("raw_data")
    tensor.int64_data[:] = values


def call_functions(proto: onnx.ModelProto, rng: Random) -> None:
    """Functions that call functions: in a circle, deep, doubling at every level, or without what they need."""
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), 21)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("g", 1)]
    levels, width = rng.choice((1, 3, 25, 40, 200)), rng.choice((1, 2, 9))
    for level in range(levels):
        last = level == levels - 1
        called = ("Identity", "") if last and rng.random() < 0.8 else (f"f{(level + 1) % levels}", "g")
        nodes = [helper.make_node(called[0], ["a"], [f"b{number}"], domain=called[1]) for number in range(width)]
        kept = imports if rng.random() < 0.95 else imports[:1]
        proto.functions.append(helper.make_function("g", f"f{level}", ["a"], [f"b{rng.randrange(width)}"], nodes, kept))
    proto.opset_import.append(imports[1])
    node = rng.choice(_nodes(proto))
    node.op_type, node.domain = "f0", "g"


def nest(proto: onnx.ModelProto, rng: Random) -> None:
    """The graph's own nodes as a body of If within If, as deep as protobuf takes and more."""
    graph = proto.graph
    kept = onnx.GraphProto.FromString(graph.SerializeToString())
    names = [info.name for info in graph.output]
    body = helper.make_graph(list(kept.node), "b", [], [onnx.ValueInfoProto(name=name) for name in names])
    for level in range(rng.choice((1, 2, 8, 30, 60))):
        made = [f"{name}.{level}" for name in names]
        other = body if level < 3 else helper.make_graph([], "e", [], [])
        node = helper.make_node("If", ["condition"], made, then_branch=body, else_branch=other)
        body = helper.make_graph([node], "b", [], [onnx.ValueInfoProto(name=name) for name in made])
    del graph.node[:], graph.output[:]
    graph.node.extend(body.node)
    graph.output.extend(body.output)
    graph.input.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, rng.choice(([], [1], [2]))))


MUTATIONS: tuple[Mutation, ...] = (
    change_field, change_field, change_attribute, change_attribute, add_attribute, change_shape, change_shape, declare, change_name,
    swap_operator, change_arity, change_versions, reorder, duplicate, change_tensor, change_tensor, set_integers, call_functions, nest,
)  # fmt: skip
