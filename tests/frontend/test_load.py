"""Loading: files of every kind, external data, types of every value, control flow, functions, long chains."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from kopt.errors import FileError, InvalidModelError, UsageError
from kopt.frontend.export import to_model
from kopt.frontend.load import load
from kopt.ir.types import TensorType
from support.graphs import graph, model, node_model, random_inputs, run_ort

TINY = "m (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"


# Files


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"not a model at all", "not ONNX|no ONNX model"), (model(TINY).SerializeToString()[:-9], "truncated|no ONNX")],
)
def test_bytes_that_are_no_model(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for given in (path, content):
        with pytest.raises(InvalidModelError, match=words):
            load(given)


def test_what_is_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing.onnx", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(FileError) as caught:
            load(path)
        assert str(path) in str(caught.value)
    with pytest.raises(UsageError):
        load(7)  # type: ignore[arg-type]


def test_path_bytes_and_proto_give_the_same_graph(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(TINY).SerializeToString())
    for given in (path, str(path), path.read_bytes(), model(TINY)):
        assert [repr(node) for node in load(given).nodes] == ["%y = Relu(%x)"]
    assert load(path).nodes[0].loc.model == "m.onnx"


# External data


def external(folder: Path, **entries: str) -> Path:
    """A model whose weight lies in ``w.bin``, with the entries changed."""
    proto = model("m (float[2,3] x) => (y) { y = Add(x, w) }")
    held = onnx.TensorProto(name="w", dims=[2, 3], data_type=1, data_location=1)
    for key, value in {"location": "w.bin", "offset": "8", "length": "24", **entries}.items():
        held.external_data.add(key=key, value=value)
    proto.graph.initializer.append(held)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    inside.mkdir()
    for where in (tmp_path, inside):
        (where / "w.bin").write_bytes(b"12345678" + WEIGHT.tobytes())
    return inside


def test_external_data_is_read_lazily(folder: Path) -> None:
    held = load(external(folder))
    np.testing.assert_array_equal(next(iter(held.constants.values())).array(), WEIGHT)
    blob = (folder / "w.bin").read_bytes()
    load(external(folder, checksum=hashlib.sha1(blob).hexdigest()))


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "blobs").mkdir()
    (folder / "w.bin").rename(folder / "blobs" / "b0")
    (folder / "w.bin").symlink_to("blobs/b0")
    np.testing.assert_array_equal(next(iter(load(external(folder)).constants.values())).array(), WEIGHT)


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "../w.bin"},
        {"location": "a/../../w.bin"},
        {"location": "/etc/passwd"},
        {"location": "/proc/self/mem"},
        {"location": "w.bin\0"},
        {"location": ""},
        {"location": "."},
        {"location": "missing.bin"},
        {"location": "https://example.com/w.bin"},
        {"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096"},
        {"offset": "-8"},
        {"offset": "9"},
        {"offset": "99999999999999999999"},
        {"offset": "eight"},
        {"length": "23"},
        {"length": "-24"},
        {"checksum": "00"},
        {"surprise": "1"},
    ],
    ids=str,
)
def test_external_data_that_is_refused(folder: Path, entries: dict[str, str]) -> None:
    with pytest.raises(InvalidModelError) as caught:
        load(external(folder, **entries))
    assert "'w'" in str(caught.value)


def test_links_that_lead_out_are_refused(folder: Path) -> None:
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to(folder.parent / "w.bin")
    with pytest.raises(InvalidModelError, match="outside"):
        load(external(folder))
    (folder / "w.bin").unlink()
    (folder / "w.bin").hardlink_to(folder.parent / "w.bin")
    with pytest.raises(InvalidModelError, match="one link"):
        load(external(folder))
    (folder / "w.bin").unlink()
    os.mkfifo(folder / "w.bin")
    with pytest.raises(InvalidModelError, match="regular"):
        load(external(folder))


# Types


def test_declared_types_fill_what_inference_leaves_open() -> None:
    held = graph("m (float[N,3] x, int64[2] s) => (float[A,6] y) { y = Reshape(x, s) }")
    assert str(held.outputs[0].type) == "f32[A,6]"
    held = graph("m (float[2,3] x) => (y) { i = NonZero(x) y = Neg(i) }")
    dims = [dim for dim in held.outputs[0].tensor.shape or () if isinstance(dim, str)]
    assert str(held.outputs[0].tensor.dtype) == "i64"
    assert all(dim.startswith("?") for dim in dims)


def test_anonymous_dimensions_differ() -> None:
    held = graph("m (float[?,3] x, float[?,3] z) => (y, w) { y = Neg(x) w = Neg(z) }")
    first, second = (value.tensor.shape for value in held.inputs)
    assert first != second
    assert held.outputs[0].tensor.shape == first


def test_constant_nodes_and_initializers_that_are_inputs_become_constants() -> None:
    proto = model(
        "m (float[3] x, float[3] w) => (y) <float[3] w = {1, 2, 3}> { c = Constant<value_floats = [2.0]>() d = Add(x, c) y = Mul(d, w) }"
    )
    held = load(proto)
    assert [value.name for value in held.inputs] == ["x"]
    assert [node.op for node in held.nodes] == ["Add", "Mul"]
    assert sorted(value.name for value in held.constants) == ["c", "w"]


def test_trailing_absent_inputs_are_cut_and_defaults_filled() -> None:
    x = np.zeros((1, 2, 4, 4), np.float32)
    proto = node_model("Clip", {"x": x, "absent_a": x, "absent_b": x}, opset=13)
    assert len(load(proto).nodes[0].inputs) == 1
    assert load(model("m (float[2,3] x) => (y) { y = Softmax(x) }")).nodes[0].attrs["axis"] == -1


# Control flow


def test_branches_capture_and_are_typed() -> None:
    held = graph(
        """m (bool c, float[2,N] x) => (y) {
            a = Relu(x)
            y = If (c) <then_branch = t () => (p) { p = Neg(a) },
                else_branch = e () => (q) { k = Constant<value_float = 1.0>() q = Add(a, k) }>
        }"""
    )
    assert str(held.outputs[0].type) == "f32[2,N]"
    bodies = list(held.nodes[1].subgraphs())
    assert [[value.name for value in body.captures] for body in bodies] == [["a"], ["a"]]


def test_a_loop_that_grows_a_value_is_typed_for_every_iteration() -> None:
    text = """m (int64 n, float[1,3] x) => (z, rows) {
        t = Constant<value = bool {1}>()
        z, rows = Loop (n, t, x) <body = b (int64 i, bool c, float[?,3] v) => (bool d, float[?,3] w, float[?,3] r) {
            d = Identity(c) w = Concat<axis = 0>(v, x) r = Identity(x)
        }>
    }"""
    held = graph(text)
    grown, rows = (value.tensor.shape for value in held.outputs)
    assert isinstance(grown[0], str)
    assert grown[1] == 3
    assert len(rows) == 3
    feeds = {"n": np.array(3), "x": np.ones((1, 3), np.float32)}
    for got, want in zip(run_ort(to_model(held), feeds), run_ort(model(text), feeds), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_scan_stacks_along_its_length() -> None:
    held = graph(
        """m (float[3] s, float[5,3] x) => (f, y) {
            f, y = Scan (s, x) <num_scan_inputs = 1, body = b (a, e) => (n, o) { n = Add(a, e) o = Mul(n, e) }>
        }"""
    )
    assert [str(value.type) for value in held.outputs] == ["f32[3]", "f32[5,3]"]


def test_a_body_must_make_what_its_node_gives() -> None:
    proto = model(
        "m (bool c, float[2] x) => (y) { y = If (c) <then_branch = t () => (p) { p = Neg(x) }, else_branch = e () => (q) { q = Abs(x) }> }"
    )
    proto.graph.node[0].output.append("extra")
    with pytest.raises(InvalidModelError, match="makes 1, but its node"):
        load(proto)


# Functions


def function(text: str) -> onnx.FunctionProto:
    return parser.parse_function(text)


TWICE = '<domain: "local", opset_import: ["" : 21]> twice <alpha> (a) => (b) { c = LeakyRelu<alpha: float = @alpha>(a) b = Add(c, c) }'


def with_functions(body: str, *texts: str) -> onnx.ModelProto:
    proto = model(body, functions=[function(text) for text in texts])
    proto.opset_import.append(helper.make_opsetid("local", 1))
    return proto


def test_functions_are_inlined_with_their_attributes() -> None:
    proto = with_functions("m (float[4] x) => (float[4] y) { a = local.twice<alpha = 0.5>(x) y = local.twice<alpha = 0.25>(a) }", TWICE)
    held = load(proto)
    assert [node.op for node in held.nodes] == ["LeakyRelu", "Add", "LeakyRelu", "Add"]
    feeds = random_inputs(held)
    np.testing.assert_allclose(run_ort(to_model(held), feeds)[0], run_ort(proto, feeds)[0], rtol=1e-6)


def test_functions_without_end_are_refused() -> None:
    recursive = '<domain: "local", opset_import: ["local" : 1]> f (a) => (b) { b = local.f(a) }'
    with pytest.raises(InvalidModelError, match="calls itself"):
        load(with_functions("m (float[4] x) => (y) { y = local.f(x) }", recursive))
    levels = [
        f'<domain: "local", opset_import: ["local" : 1, "" : 21]> f{k} (a) => (b) '
        + ("{ b = Relu(a) }" if k == 0 else f"{{ c = local.f{k - 1}(a) b = local.f{k - 1}(c) }}")
        for k in range(25)
    ]
    with pytest.raises(InvalidModelError, match="inlining"):
        load(with_functions("m (float[4] x) => (y) { y = local.f24(x) }", *levels))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            """f (c, a) => (b) { k = Relu(a) b = If (c) <then_branch = t () => (p) { p = Neg(k) },
           else_branch = e () => (q) { z = Abs(k) q = Add(z, a) }> }""",
            [-1, 4, -3, 8],
        ),
        ("f (c, a) => (a) { d = Neg(a) }", [-1, 2, -3, 4]),
        ("f <k: float = 0.25> (c, a) => (d) { d = LeakyRelu<alpha: float = @k>(a) }", [-0.25, 2, -0.75, 4]),
    ],
)
def test_bodies_passed_on_inputs_and_default_attributes_of_functions(text: str, expected: list[float]) -> None:
    proto = with_functions(
        "m (bool c, float[4] x) => (float[4] y) { y = local.f(c, x) }", f'<domain: "local", opset_import: ["" : 21]> {text}'
    )
    feeds = {"c": np.array(False), "x": np.array([-1, 2, -3, 4], np.float32)}
    got = run_ort(to_model(load(proto)), feeds)[0]
    np.testing.assert_allclose(got, expected)


def test_a_function_follows_the_opset_it_imports() -> None:
    body = "f (a) => (c) { c = ReduceSum<axes = [1], keepdims = 0>(a) }"
    proto = with_functions("m (float[2,4] x) => (float[2] y) { y = local.f(x) }", f'<domain: "local", opset_import: ["" : 11]> {body}')
    got = run_ort(to_model(load(proto)), {"x": np.ones((2, 4), np.float32)})[0]
    np.testing.assert_array_equal(got, [4, 4])
    foreign = model("m (float[2,4] x) => (y) { y = ReduceSum<axes = [1]>(x) }")
    foreign.graph.node[0].metadata_props.add(key="kopt.opset", value="11")
    with pytest.raises(InvalidModelError, match="no attribute 'axes'"):
        load(foreign)


# Size


def test_a_chain_of_thirty_thousand_nodes() -> None:
    count = 30_000
    nodes = [helper.make_node(("Relu", "Neg")[k % 2], [f"v{k}"], [f"v{k + 1}"]) for k in range(count)]
    proto = helper.make_model(
        helper.make_graph(
            nodes, "chain", [helper.make_tensor_value_info("v0", 1, ["N", 4])], [helper.make_tensor_value_info(f"v{count}", 1, ["N", 4])]
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    held = load(proto)
    assert len(held.nodes) == count
    assert all(isinstance(node.output.type, TensorType) and node.output.type.shape == ("N", 4) for node in held.nodes)


def test_weights_of_every_stored_form() -> None:
    values = np.array([[-2, 7, 0], [1, -8, 3]])
    for code in (
        onnx.TensorProto.INT4,
        onnx.TensorProto.INT8,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    ):
        for raw in (False, True):
            proto = model("m (int64[1] x) => (y, w) { y = Neg(x) }")
            held = helper.make_tensor("w", code, [2, 3], values.ravel())
            if raw:
                held = numpy_helper.from_array(numpy_helper.to_array(held), "w")
            proto.graph.initializer.append(held)
            got = next(iter(load(proto).constants.values())).array()
            np.testing.assert_array_equal(got.astype(np.int64), values)
