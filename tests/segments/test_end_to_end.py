"""Models whose parts run on the host: compiled, written, loaded in a session, compared with ONNX Runtime or numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import kopt
from kopt.artifact import Artifact


def model(nodes: Sequence[onnx.NodeProto], inputs: dict[str, tuple], outputs: dict[str, tuple], **weights: np.ndarray) -> onnx.ModelProto:
    """A model; inputs and outputs by name as (element type, shape)."""
    infos = [[helper.make_tensor_value_info(name, *type_) for name, type_ in part.items()] for part in (inputs, outputs)]
    held = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "model", *infos, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def non_zero(rng: np.random.Generator) -> onnx.ModelProto:
    """Compiled, host, compiled: the number of columns of the product depends on values."""
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["where"], name="find"),
        helper.make_node("Cast", ["where"], ["floats"], to=1),
        helper.make_node("MatMul", ["w", "floats"], ["y"]),
    ]
    weight = rng.standard_normal((600, 2)).astype(np.float32)
    return model(nodes, {"x": (1, ["N", 4])}, {"y": (1, None)}, w=weight)


def test_non_zero_between_compiled_segments(non_zero: onnx.ModelProto, tmp_path: Path, rng: np.random.Generator) -> None:
    artifact = kopt.compile(non_zero, output=tmp_path / "m.kopt", measure=False)
    assert [name.split(" ")[0] for name in artifact.report["host_nodes"]] == ["find"]
    reference = onnxruntime.InferenceSession(non_zero.SerializeToString())
    with kopt.load(tmp_path / "m.kopt", cache=tmp_path / "cache") as session:
        assert session.tier == "native"
        session.warmup()
        assert session.self_test()
        for rows in (1, 5, 1, 0):
            feeds = {"x": rng.standard_normal((rows, 4)).astype(np.float32)}
            found, expected = session.run(feeds)["y"], reference.run(None, feeds)[0]
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with kopt.load(tmp_path / "m.kopt", cache=tmp_path / "cache") as session:  # a new shape comes from the cache, as segments
        feeds = {"x": rng.standard_normal((5, 4)).astype(np.float32)}
        np.testing.assert_allclose(session.run(feeds)["y"], reference.run(None, feeds)[0], rtol=1e-5, atol=1e-5)


def test_strings_in_and_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("StringConcat", ["a", "b"], ["c"])]
    both = model(nodes, {"a": (8, [3]), "b": (8, [1])}, {"c": (8, [3])})
    kopt.compile(both, output=tmp_path / "m.kopt", measure=False)
    with kopt.load(tmp_path / "m.kopt") as session:
        session.warmup()
        found = session.run({"a": np.array(["x", "", "ü"], object), "b": np.array(["!"], object)})["c"]
    assert found.tolist() == ["x!", "!", "ü!"]


def test_a_shape_computed_from_values_cuts_the_program(tmp_path: Path, rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["m"], ["top"], keepdims=0),
        helper.make_node("Range", ["zero", "top", "one"], ["steps"]),
        helper.make_node("Cast", ["steps"], ["floats"], to=1),
        helper.make_node("Mul", ["floats", "scale"], ["y"]),
    ]
    counted = model(
        nodes, {"m": (7, [2, 3]), "scale": (1, [1])}, {"y": (1, None)}, zero=np.asarray(0, np.int64), one=np.asarray(1, np.int64)
    )
    kopt.compile(counted, output=tmp_path / "m.kopt", measure=False)
    with kopt.load(tmp_path / "m.kopt") as session:
        for top in (4, 1, 7):
            feeds = {"m": np.array([[0, top, -1], [0, 0, 0]], np.int64), "scale": np.array([1.5], np.float32)}
            np.testing.assert_array_equal(session.run(feeds)["y"], np.arange(top, dtype=np.float32) * np.float32(1.5))
    assert Artifact.open(tmp_path / "m.kopt").report["host_nodes"] == []


def test_an_input_that_decides_a_size_is_bound_when_it_comes(tmp_path: Path, rng: np.random.Generator) -> None:
    top = model([helper.make_node("TopK", ["x", "k"], ["v", "i"])], {"x": (1, [6]), "k": (7, [1])}, {"v": (1, None), "i": (7, None)})
    kopt.compile(top, output=tmp_path / "m.kopt", measure=False)
    with kopt.load(tmp_path / "m.kopt") as session:
        for k in (1, 4, 0):
            x = rng.standard_normal(6).astype(np.float32)
            found = session.run({"x": x, "k": np.array([k])})
            np.testing.assert_array_equal(found["v"], np.sort(x)[::-1][:k])


def test_what_nothing_runs_is_named_even_inside_a_body(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (string[2, 2] a, int64[2] n, bool c) => (string[2, 2] y) {
            y = If (c) <then_branch = t () => (string[2, 2] p) { [lost] p = ReverseSequence(a, n) },
                        else_branch = e () => (string[2, 2] q) { q = Identity(a) }> }"""
    with pytest.raises(kopt.UnsupportedModelError, match="lost"):
        kopt.compile(onnx.parser.parse_model(text), output=tmp_path / "m.kopt", measure=False)
