"""Operators that make and take maps, against ONNX Runtime where it takes them from Python, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import kopt.onnx_backend as backend
from kopt.errors import InputError, InvalidModelError

F32, F64, I64, TEXT = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING


def map_type(key: int, element: int) -> onnx.TypeProto:
    return helper.make_map_type_proto(key, helper.make_tensor_type_proto(element, []))


def ml_model(op: str, given: onnx.TypeProto, made: onnx.TypeProto, **attrs: Any) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", **attrs)
    graph = helper.make_graph([node], "maps", [helper.make_value_info("x", given)], [helper.make_value_info("y", made)])
    imports = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def tensor(kind: int, shape: Any = None) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind, shape)


def zipped(key: int) -> onnx.TypeProto:
    return helper.make_sequence_type_proto(map_type(key, F32))


LIKE_ONNXRUNTIME = {
    "text keys": (
        ml_model("ZipMap", tensor(F32, ["N", 2]), zipped(TEXT), classlabels_strings=["a", "b"]),
        np.float32([[0.5, 0.25], [1, 2]]),
    ),
    "one row": (ml_model("ZipMap", tensor(F32, [2]), zipped(I64), classlabels_int64s=[3, 7]), np.float32([0.5, 0.25])),
    "no rows": (ml_model("ZipMap", tensor(F32, ["N", 1]), zipped(I64), classlabels_int64s=[3]), np.zeros((0, 1), np.float32)),
    "words": (ml_model("DictVectorizer", map_type(TEXT, F32), tensor(F32), string_vocabulary=["a", "c", "b"]), {"a": 4.0, "b": 8.0}),
    "dense": (ml_model("CastMap", map_type(I64, F32), tensor(F32)), {7: 4.5, 0: 3.0}),
    "sparse": (ml_model("CastMap", map_type(I64, F32), tensor(I64), cast_to="TO_INT64", map_form="SPARSE", max_map=3), {2: 4.5, 0: 3.0}),
}
BY_HAND = {
    "no words": (ml_model("DictVectorizer", map_type(I64, F32), tensor(F32), int64_vocabulary=[5, 1]), {}, np.zeros((1, 2), np.float32)),
    "text to numbers": (
        ml_model("CastMap", map_type(I64, TEXT), tensor(I64), cast_to="TO_INT64", map_form="SPARSE", max_map=4), {1: "4", 3: "-3"},
        np.array([[0, 4, 0, -3]]),
    ),
    "numbers to text": (
        ml_model("CastMap", map_type(I64, F32), tensor(TEXT), cast_to="TO_STRING", map_form="SPARSE", max_map=2), {1: 4.5},
        np.array([["", "4.5"]], object),
    ),
    "doubles": (ml_model("DictVectorizer", map_type(I64, F64), tensor(F64), int64_vocabulary=[5, 1]), {1: 4.25}, np.array([[0, 4.25]])),
    "text values": (
        ml_model("DictVectorizer", map_type(I64, TEXT), tensor(TEXT), int64_vocabulary=[5, 1]), {5: "five"},
        np.array([["five", ""]], object),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIKE_ONNXRUNTIME)
def test_like_onnxruntime(case: str) -> None:
    model, x = LIKE_ONNXRUNTIME[case]
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    found = backend.run_model(model, {"x": x})[0]
    if isinstance(expected, list):
        assert found == expected
    else:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case: str) -> None:
    model, x, expected = BY_HAND[case]
    found = backend.run_model(model, {"x": x})[0]
    assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


@pytest.mark.parametrize(
    ("case", "x", "words"),
    [("words", {"z": 1.0}, "lacks 'z'"), ("sparse", {3: 1.0}, "outside 0 to 2"), ("text keys", np.zeros((1, 3), np.float32), "3")],
)
def test_values_that_do_not_fit_are_refused(case: str, x: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        backend.run_model(LIKE_ONNXRUNTIME[case][0], {"x": x})


def test_a_tensor_is_no_map() -> None:
    with pytest.raises(InvalidModelError, match="DictVectorizer does not accept"):
        backend.prepare(ml_model("DictVectorizer", tensor(F32, [2]), tensor(F32), string_vocabulary=["a"]))
