"""Writing graphs as ONNX: what a runtime computes stays the same, names stay, files are whole or absent."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

from kopt.errors import FileError, UnsupportedModelError, UsageError
from kopt.frontend.export import save, to_model
from kopt.frontend.load import load
from kopt.ir.builder import Builder
from kopt.ir.fingerprint import fingerprint
from support.graphs import graph, model, node_model, random_inputs, run_ort

CONV = """m (float[N,3,8,8] x) => (float[N,4] y) {
    c = Conv<pads = [1,1,1,1]>(x, w, b) r = Relu(c) p = GlobalAveragePool(r) y = Flatten(p)
}"""


def conv() -> onnx.ModelProto:
    proto = model(CONV)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("b", (4,))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return proto


def test_a_second_round_changes_nothing() -> None:
    proto = conv()
    first = to_model(load(proto))
    assert fingerprint(load(first)) == fingerprint(load(proto))
    assert to_model(load(first)).SerializeToString() == first.SerializeToString()
    feeds = random_inputs(load(proto), dims={"N": 2})
    np.testing.assert_array_equal(run_ort(first, feeds)[0], run_ort(proto, feeds)[0])
    onnx.checker.check_model(first, full_check=True)


def test_signature_and_metadata_stay() -> None:
    proto = conv()
    onnx.helper.set_model_props(proto, {"author": "somebody"})
    written = to_model(load(proto))
    assert [value.name for value in (*written.graph.input, *written.graph.output)] == ["x", "y"]
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert {entry.key: entry.value for entry in written.metadata_props} == {"author": "somebody"}


def test_outputs_that_no_node_makes_keep_their_names() -> None:
    held = graph("m (float[2] x) => (float[2] x, float[2] w, float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    written = to_model(held)
    assert [value.name for value in written.graph.output] == ["x", "w", "y"]
    x = np.array([3, 4], np.float32)
    for got, want in zip(run_ort(written, {"x": x}), ([3, 4], [1, 2], [4, 6]), strict=True):
        np.testing.assert_array_equal(got, want)
    twice = held.replace(outputs=(held.outputs[2], held.outputs[2]))
    first, second = run_ort(to_model(twice), {"x": x})
    np.testing.assert_array_equal(first, second)


def test_a_body_that_passes_a_value_on() -> None:
    held = graph(
        "m (bool c, float[2] x) => (y) { y = If (c) <then_branch = t () => (p) { p = Neg(x) }, else_branch = e () => (q) { q = Abs(x) }>}"
    )
    node = held.nodes[0]
    then = node.attrs["then_branch"]
    short = then.replace(nodes=(), outputs=(held.inputs[1],))  # type: ignore[union-attr]
    cut = held.replace(nodes=(node.replace(attrs={**node.attrs, "then_branch": short}),))
    got = run_ort(to_model(cut), {"c": np.array(True), "x": np.array([1, 2], np.float32)})[0]
    np.testing.assert_array_equal(got, [1, 2])


def test_the_opset_is_the_preferred_one_unless_a_node_needs_more() -> None:
    assert to_model(graph("m (float[2] x) => (y) { y = Relu(x) }", opset=13)).opset_import[0].version == 21
    newer = graph("m (float[2,4] x, float[4] s) => (y) { y = RMSNormalization(x, s) }", opset=23)
    assert to_model(newer).opset_import[0].version == 23
    with pytest.raises(UnsupportedModelError, match="export at opset 23"):
        to_model(newer, opset=17)
    with pytest.raises(UsageError, match="opset 99"):
        to_model(newer, opset=99)
    axes = graph("m (float[2,4] x) => (y) { a = Constant<value_ints = [1]>() y = ReduceMean(x, a) }", opset=18)
    assert to_model(axes, opset=18).opset_import[0].version == 18
    with pytest.raises(UnsupportedModelError):
        to_model(axes, opset=17)


def test_an_empty_list_keeps_its_type() -> None:
    x, w = np.ones((1, 1, 2), np.float32), np.ones((1, 3, 2), np.float32)
    proto = node_model("RNN", {"x": x, "w": w, "r": np.ones((1, 3, 3), np.float32)}, opset=14, hidden_size=3)
    proto.graph.node[0].attribute.add(name="activation_alpha", type=onnx.AttributeProto.FLOATS)
    written = to_model(load(proto)).graph.node[0]
    assert {one.name: one.type for one in written.attribute}["activation_alpha"] == onnx.AttributeProto.FLOATS


def test_operators_of_kopt_are_listed() -> None:
    builder = Builder()
    x = builder.input("x", "f32", [1, 4, 4, 3])
    y = builder.emit("GlobalAveragePoolNhwc", x, domain="com.kopt")
    with pytest.raises(UnsupportedModelError, match=r"com\.kopt::GlobalAveragePoolNhwc"):
        to_model(builder.graph("g", [x], [y]))


@pytest.mark.parametrize("external", [False, True])
def test_saved_files_load_again(tmp_path: Path, external: bool) -> None:
    held = load(wide())
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    save(held, path, external=external)
    assert sorted(file.name for file in tmp_path.iterdir()) == (["m.onnx", "m.onnx.data"] if external else ["m.onnx"])
    assert fingerprint(load(path)) == fingerprint(held)


def wide() -> onnx.ModelProto:
    proto = model("m (float[2,300] x) => (y) { y = Mul(x, w) }")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(300, dtype=np.float32), "w"))
    return proto


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        save(load(wide()), tmp_path / "nowhere" / "m.onnx")


def test_official_node_models_load_and_export() -> None:
    with warnings.catch_warnings():  # making the cases overflows on purpose
        warnings.simplefilter("ignore")
        cases = [case for case in load_model_tests(kind="node") if case.model is not None]
    assert len(cases) > 1000
    failed = {}
    for case in cases:
        try:
            written = to_model(load(case.model))
        except Exception as error:
            failed[case.name] = str(error)
            continue
        assert [value.name for value in written.graph.output] == [value.name for value in case.model.graph.output], case.name
    assert not failed, failed
