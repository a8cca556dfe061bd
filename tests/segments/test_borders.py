"""Artifacts whose inputs and outputs are sequences, optionals, maps or text: compiled, stored, loaded on every tier, and by command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

import kopt
from kopt.artifact import Artifact
from kopt.cli.main import app
from kopt.ir.wrappers import leaves, same_form
from support.graphs import model

X = np.arange(4, dtype=np.float32).reshape(2, 2)


def zip_map() -> onnx.ModelProto:
    """A product, and its rows as maps: how converted classifiers end."""
    proto = model("m (float[N,2] x) => (y) <float[2,2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }")
    proto.graph.node.append(helper.make_node("ZipMap", ["y"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["a", "b"]))
    element = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    proto.graph.output.append(helper.make_value_info("maps", helper.make_sequence_type_proto(element)))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return proto


def cast_map() -> onnx.ModelProto:
    """Numbers by position, doubled."""
    proto = model("m (float[2] t) => (y) { y = Add(v, v) }")
    proto.graph.node.insert(0, helper.make_node("CastMap", ["x"], ["v"], domain="ai.onnx.ml", map_form="SPARSE", max_map=3))
    del proto.graph.input[:]
    given = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    proto.graph.input.append(helper.make_value_info("x", given))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return proto


CASES: dict[str, tuple[onnx.ModelProto, list[tuple[dict[str, Any], dict[str, Any]]]]] = {
    "a sequence out": (
        model("m (float[2,2] x) => (s) { a = Neg(x) s = SequenceConstruct(x, a) }"),
        [({"x": X}, {"s": [X, -X]})],
    ),
    "a sequence in": (
        model("m (seq(float[2,2]) s, int64 i) => (y) { a = SequenceAt(s, i) y = Neg(a) }"),
        [
            ({"s": [X, X + 1], "i": np.asarray(1)}, {"y": -X - 1}),
            ({"s": [X, X + 1, X + 2], "i": np.asarray(-1)}, {"y": -X - 2}),
        ],
    ),
    "an empty sequence": (
        model("m (seq(float[N]) s) => (n, t) { n = SequenceLength(s) t = Identity(s) }"),
        [({"s": []}, {"n": np.asarray(0), "t": []}), ({"s": [X[0], X[1]]}, {"n": np.asarray(2), "t": [X[0], X[1]]})],
    ),
    "an optional": (
        model("m (optional(float[2,2]) o) => (h, p) { h = OptionalHasElement(o) p = Identity(o) }"),
        [({"o": X}, {"h": np.asarray(True), "p": X}), ({}, {"h": np.asarray(False), "p": None})],
    ),
    "maps out": (zip_map(), [({"x": X}, {"y": X @ np.float32([[1, 2], [3, 4]]), "maps": [{"a": 3.0, "b": 4.0}, {"a": 11.0, "b": 16.0}]})]),
    "a map in": (cast_map(), [({"x": {2: 1.5, 0: 1.0}}, {"y": np.float32([[2, 0, 3]])}), ({"x": {}}, {"y": np.zeros((1, 3), np.float32)})]),
    "text": (
        model("m (string[2] x) => (y, s) { y = StringConcat(x, x) s = SequenceConstruct(y) }"),
        [({"x": np.array(["a", "ü"])}, {"y": np.array(["aa", "üü"], object), "s": [np.array(["aa", "üü"], object)]})],
    ),
}  # fmt: skip


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert same_form(found[name], value), f"{found[name]}, not {value}"
        for one, other in zip(leaves(found[name]), leaves(value), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_sessions_take_and_give_them(name: str, tmp_path: Path) -> None:
    proto, data = CASES[name]
    artifact = kopt.compile(proto, output=tmp_path / "m.kopt")
    assert artifact.report["buckets"][0]["accuracy"]["relative"] == 0
    assert Artifact.open(tmp_path / "m.kopt").manifest.signature == artifact.manifest.signature
    for tier in ("native", "recompiled"):
        with kopt.load(tmp_path / "m.kopt", require=tier, cache=tmp_path / "cache") as session:
            session.warmup()
            assert session.self_test() is not None
            for feeds, expected in data:
                assert_equal(session.run(feeds), expected)


@pytest.mark.parametrize("name", CASES)
def test_commands_take_and_give_them_as_arrays(name: str, tmp_path: Path) -> None:
    proto, data = CASES[name]
    onnx.save(proto, tmp_path / "m.onnx")
    kopt.compile(proto, output=tmp_path / "m.kopt", measure=False)
    feeds, expected = data[0]
    arrays = {"s": {"s/0": X, "s/1": X + 1}, "maps": {}}.get(name, {})
    for key, value in feeds.items():
        if isinstance(value, dict):
            arrays |= {f"{key}/keys": np.array(list(value)), f"{key}/values": np.array(list(value.values()))}
        elif isinstance(value, list):
            arrays |= {f"{key}/{index}": member for index, member in enumerate(value)}
        else:
            arrays[key] = value
    np.savez(tmp_path / "in.npz", **arrays)
    command = ["run", str(tmp_path / "m.kopt"), "--inputs", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = dict(np.load(tmp_path / "out.npz"))
    wanted = [array for value in expected.values() for array in leaves(value)]
    if "maps" not in expected:
        assert len(written) == len(wanted)
        for one, other in zip(written.values(), wanted, strict=True):
            np.testing.assert_array_equal(one, other.astype(one.dtype))
    else:
        assert written["maps/1/keys"].tolist() == ["a", "b"]
    done = CliRunner().invoke(app, ["run", *command[1:4], "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    against = ["verify", command[1], "--against", str(tmp_path / "m.onnx"), "--inputs", command[3]]
    assert CliRunner().invoke(app, against, catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize(
    ("name", "feeds", "words"),
    [
        ("a sequence in", {"s": X, "i": np.asarray(0)}, "a list of arrays is needed"),
        ("a sequence in", {"s": [X, X[0]], "i": np.asarray(0)}, "has shape 2"),
        ("a sequence in", {"s": [X.astype(np.float64)], "i": np.asarray(0)}, "dtype float64"),
        ("a sequence in", {"i": np.asarray(0)}, "missing input 's'"),
        ("a map in", {"x": X}, "a dict is needed"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, feeds: dict[str, Any], words: str, tmp_path: Path) -> None:
    kopt.compile(CASES[name][0], output=tmp_path / "m.kopt", measure=False)
    with kopt.load(tmp_path / "m.kopt") as session, pytest.raises(kopt.InputError, match=words):
        session.run(feeds)
