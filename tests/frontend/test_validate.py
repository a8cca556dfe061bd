"""Models that must be refused: one clear error that names the culprit, never another exception."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kopt.errors import InvalidModelError, UnsupportedModelError
from kopt.frontend.load import load
from kopt.passes.base import PassContext
from kopt.passes.pipeline import Pipeline, preset
from support.graphs import model

BASE = "m (float[2,3] x) => (float[2,3] y) { a = Relu(x) y = Neg(a) }"
Edit = Callable[[onnx.ModelProto], object]


def node(proto: onnx.ModelProto, index: int = 0) -> onnx.NodeProto:
    return proto.graph.node[index]


def tensor(**fields: object) -> onnx.TensorProto:
    return TensorProto(name="w", dims=[2], data_type=TensorProto.FLOAT, **fields)


def add_initializer(proto: onnx.ModelProto, held: onnx.TensorProto) -> None:
    proto.graph.initializer.append(held)


def nested(levels: int) -> onnx.ModelProto:
    """Ifs within Ifs, as deep as asked; protobuf itself takes about 30."""
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "b", [], [onnx.ValueInfoProto(name="z")])
    for level in range(levels):
        other = helper.make_graph([helper.make_node("Neg", ["x"], [f"n{level}"])], "e", [], [onnx.ValueInfoProto(name=f"n{level}")])
        held = helper.make_node("If", ["c"], [f"z{level}"], then_branch=body, else_branch=other)
        body = helper.make_graph([held], "b", [], [onnx.ValueInfoProto(name=f"z{level}")])
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [1])]
    graph = helper.make_graph(list(body.node), "g", inputs, list(body.output))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


CASES: dict[str, tuple[Edit, str]] = {
    "an opset that does not exist": (lambda m: setattr(m.opset_import[0], "version", 999), "opset 999"),
    "opset zero": (lambda m: setattr(m.opset_import[0], "version", 0), "opset 0"),
    "an IR version that does not exist": (lambda m: setattr(m, "ir_version", 99), "IR version 99"),
    "two imports of one domain": (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 20)), "imported twice"),
    "a domain that is not imported": (lambda m: setattr(node(m), "domain", "com.example"), "does not import"),
    "a value made twice": (lambda m: node(m, 1).output.__setitem__(0, "a"), "'a' is made twice"),
    "a cycle": (lambda m: node(m).input.__setitem__(0, "y"), "reads 'y'"),
    "a dangling input": (lambda m: node(m).input.__setitem__(0, "nowhere"), "'nowhere'"),
    "nodes out of order": (lambda m: m.graph.node.reverse() or m.graph.node.sort(key=lambda n: n.op_type), "reads 'a'"),
    "an output nothing makes": (lambda m: setattr(m.graph.output[0], "name", "q"), "'q' is made by no node"),
    "no outputs": (lambda m: m.graph.output.pop(), "no outputs"),
    "an input declared twice": (lambda m: m.graph.input.append(m.graph.input[0]), "declared twice"),
    "an input without a type": (lambda m: m.graph.input[0].ClearField("type"), "has no type"),
    "a declared shape that contradicts": (lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 7), "declares"),
    "a declared rank that contradicts": (lambda m: m.graph.output[0].type.tensor_type.shape.dim.add(dim_value=1), "declares"),
    "a declared element type that contradicts": (lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 7), "declares"),
    "an element type that does not exist": (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77), "77"),
    "a negative dimension": (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -2), "negative"),
    "a NUL in a name": (lambda m: node(m).output.__setitem__(0, "a\0b"), "not allowed"),
    "a newline in a node name": (lambda m: setattr(node(m), "name", "a\nb"), "operator"),
    "no operator": (lambda m: setattr(node(m), "op_type", ""), "operator"),
    "too many inputs": (lambda m: node(m).input.append("x"), "2 inputs"),
    "too few inputs": (lambda m: node(m).input.pop(), "0 inputs"),
    "an unknown attribute": (lambda m: node(m).attribute.append(helper.make_attribute("alpha", 1.0)), "no attribute 'alpha'"),
    "an attribute twice": (lambda m: node(m).attribute.extend([helper.make_attribute("k", 1)] * 2), "twice"),
    "a reference attribute outside a function": (
        lambda m: node(m).attribute.append(onnx.AttributeProto(name="k", ref_attr_name="k", type=1)), "function's attribute"),
    "an initializer twice": (lambda m: m.graph.initializer.extend([tensor(float_data=[1, 2])] * 2), "made twice"),
    "an initializer that a node makes too": (lambda m: add_initializer(m, TensorProto(name="a", dims=[0], data_type=1)), "made twice"),
    "raw and typed data": (lambda m: add_initializer(m, tensor(raw_data=b"12345678", float_data=[1, 2])), "both raw_data and typed"),
    "too few bytes": (lambda m: add_initializer(m, tensor(raw_data=b"1234")), "takes 8 bytes but 4"),
    "no values": (lambda m: add_initializer(m, tensor()), "no values"),
    "too few values": (lambda m: add_initializer(m, tensor(float_data=[1])), "'w'"),
    "a size beyond 64 bits": (
        lambda m: add_initializer(m, TensorProto(name="w", dims=[2**62, 2**62], data_type=1, raw_data=b"1")), "'w'"),
    "a weight of negative dimension": (lambda m: add_initializer(m, TensorProto(name="w", dims=[-1], data_type=1)), "negative"),
    "a weight of no element type": (lambda m: add_initializer(m, TensorProto(name="w", dims=[1])), "does not exist"),
    "external data without a folder": (
        lambda m: add_initializer(m, tensor(data_location=1, external_data=[onnx.StringStringEntryProto(key="location", value="w")])),
        "external data"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused_with_the_culprit_named(case: str) -> None:
    edit, words = CASES[case]
    proto = model(BASE)
    edit(proto)
    with pytest.raises(InvalidModelError) as caught:
        load(proto)
    assert words in str(caught.value)
    assert str(caught.value.where)
    assert caught.value.next_step


def test_the_base_of_all_cases_is_fine() -> None:
    assert [held.op for held in load(model(BASE)).nodes] == ["Relu", "Neg"]


def test_an_attribute_of_another_type() -> None:
    proto = model("m (float[2,3] x) => (y) { y = Softmax<axis = 1>(x) }")
    proto.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("axis", "one"))
    with pytest.raises(InvalidModelError, match="has type STRING"):
        load(proto)


def test_shapes_that_do_not_fit_name_node_and_types() -> None:
    proto = model("m (float[2,3] x, float[4,5] w) => (y) { y = MatMul(x, w) }")
    proto.graph.node[0].name = "projection"
    with pytest.raises(InvalidModelError, match=r"MatMul does not accept \(f32\[2,3\], f32\[4,5\]\)") as caught:
        load(proto)
    assert "'projection'" in str(caught.value)


def test_every_unknown_operator_is_listed() -> None:
    proto = model("m (float[2] x) => (y) { a = Wobble(x) b = Relu(a) c = Wiggle(b) y = Wobble(c) }")
    with pytest.raises(UnsupportedModelError) as caught:
        load(proto)
    assert [op for op, _ in caught.value.nodes] == ["Wobble", "Wiggle", "Wobble"]
    assert all(name in str(caught.value) for name in ("'a'", "'c'", "'y'"))


def test_deep_nesting_is_refused() -> None:
    assert str(load(nested(20)).outputs[0].type) == "f32[1]"
    with pytest.raises(InvalidModelError, match="nests deeper") as caught:
        load(nested(28))
    assert caught.value.next_step


def sparse(dims: list[int], indices: list[int]) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.ones(len(indices), np.float32), "w")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices, np.int64), "i"), dims)


def test_sparse_weights_become_dense_within_bounds() -> None:
    proto = model("m (float[2,3] x) => (y) { y = Add(x, w) }")
    proto.graph.sparse_initializer.append(sparse([2, 3], [1, 5]))
    graph = load(proto)
    array = next(iter(graph.constants.values())).array()
    np.testing.assert_array_equal(array, np.array([[0, 1, 0], [0, 0, 1]], np.float32))
    for dims, indices in (([2, 3], [6]), ([2, 3], [-1]), ([2**40, 2**40], [0])):
        bad = model("m (float[2,3] x) => (y) { y = Add(x, w) }")
        bad.graph.sparse_initializer.append(sparse(dims, indices))
        with pytest.raises(InvalidModelError, match="sparse tensor"):
            load(bad)


def test_sparse_weights_of_another_form_are_refused() -> None:
    base = model("m (float[2,3] x) => (y) { y = Add(x, w) }")
    indices = {
        "beyond a row": np.array([[0, 3], [1, 0]], np.int64),
        "of three axes": np.array([[0, 0, 0], [1, 0, 0]], np.int64),
        "of another type": np.array([0.0, 1.0], np.float32),
        "one too few": np.array([0], np.int64),
        "none": np.zeros((0,), np.int64),
    }
    for array in indices.values():
        bad = onnx.ModelProto.FromString(base.SerializeToString())
        held = onnx.SparseTensorProto(dims=[2, 3], values=numpy_helper.from_array(np.ones(2, np.float32), "w"))
        held.indices.CopyFrom(numpy_helper.from_array(array, "i"))
        bad.graph.sparse_initializer.append(held)
        with pytest.raises(InvalidModelError, match="sparse tensor"):
            load(bad)
        bad.graph.sparse_initializer[0].indices.dims[:] = [7, 7]
        with pytest.raises(InvalidModelError):
            load(bad)


LOOP = """m (float[2] x) => (y) <int64 n = {3}, bool t = {1}> {
    y = Loop (n, t, x) <body = b (int64 i, bool k, float[2] v) => (bool k2, float[2] w) { k2 = Identity(k) w = Add(v, v) }> }"""
SCAN = """m (float[4,2] x, float[2] s) => (y, ys) {
    y, ys = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] e) => (float[2] n, float[2] o) { n = Add(a, e) o = Neg(a) }>
        (s, x) }"""


IF = """m (bool c, bool[2] d, float[2] x) => (y) {
    y = If (c) <then_branch = t () => (p) { p = Neg(x) }, else_branch = e () => (q) { q = Abs(x) }> }"""


@pytest.mark.parametrize(
    ("text", "edit", "words"),
    [
        (LOOP, lambda held: held.input.append("x"), "takes 3 values"),
        (IF, lambda held: held.attribute[0].g.output.append(onnx.ValueInfoProto(name="x")), "makes 2 or more"),
        (IF, lambda held: held.input.__setitem__(0, "d"), "one value to decide by"),
        (LOOP, lambda held: held.input.pop(), "takes 3 values"),
        (SCAN, lambda held: held.input.pop(0), "takes 2 values"),
        (SCAN, lambda held: setattr(held.attribute[0], "i", 2**62), "model declares"),
        (SCAN, lambda held: setattr(held.attribute[0], "i", -1), "model declares"),
        (SCAN, lambda held: held.attribute.append(helper.make_attribute("scan_input_axes", [0, 0])), "scanned inputs"),
        (SCAN, lambda held: held.attribute.append(helper.make_attribute("scan_input_axes", [5])), "model declares"),
        (SCAN, lambda held: held.attribute.append(helper.make_attribute("scan_output_directions", [2])), "scanned outputs"),
    ],
)
def test_bodies_that_do_not_fit_their_node(text: str, edit: Edit, words: str) -> None:
    load(model(text))
    proto = model(text)
    edit(node(proto))
    with pytest.raises(InvalidModelError, match=words) as caught:
        load(proto)
    assert caught.value.next_step


def test_an_axis_beyond_32_bits_is_refused() -> None:
    proto = model("m (float[2,3] x) => (y) { y = Concat <axis = 4294967296> (x, x) }")
    with pytest.raises(InvalidModelError, match="names an axis beyond"):
        load(proto)


def test_a_split_into_another_number_of_outputs_is_refused() -> None:
    proto = model("m (float[6] x) => (a) { a, b, c, d = Split <num_outputs = 3> (x) }")
    with pytest.raises(InvalidModelError, match="has 4 outputs, but its num_outputs is 3"):
        load(proto)


@pytest.mark.parametrize("equation", [b"\xff", b"a\0b", b"i.j", b"ij->->i", b"1"])
def test_an_equation_that_is_none_is_refused(equation: bytes) -> None:
    proto = model('m (float[2,3] x) => (y) { y = Einsum <equation = "ij->ji"> (x) }')
    proto.graph.node[0].attribute[0].s = equation
    with pytest.raises(InvalidModelError, match="has the equation"):
        load(proto)


def test_sizes_beyond_64_bits_are_not_folded() -> None:
    text = "m (float[2] x) => (y) <int64[1] big = {9223372036854775807}> { s = Shape(x) a = Mul(s, big) y = Add(a, big) }"
    graph, _ = Pipeline(preset("import")).run(load(model(text)), PassContext())
    assert graph.outputs[0].name == "y"


@pytest.mark.parametrize("batch", [-(2**31), -1, 2, 2**40])
def test_batch_dimensions_that_no_input_has_are_refused(batch: int) -> None:
    proto = model(f"m (float[2,3,4] x, int64[2,2] i) => (y) {{ y = GatherND <batch_dims = {batch}> (x, i) }}")
    with pytest.raises(InvalidModelError, match="batch dimensions"):
        load(proto)
