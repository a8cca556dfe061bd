"""Host functions beside ONNX Runtime, onnx.reference or numpy, on random values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from kopt.errors import InputError, MissingDependencyError
from kopt.frontend.load import load
from kopt.hardware import Target
from kopt.segments.interpret import HostSegment
from kopt.specialize import Recipe
from kopt.targets.host import image

STRING, I64 = onnx.TensorProto.STRING, onnx.TensorProto.INT64


def run(op: str, *inputs: Any, outputs: int = 1, domain: str = "", expected: bool = False, **attrs: Any) -> list[Any]:
    """One node on the host, or on ONNX Runtime when ``expected``."""
    model = model_of(op, *inputs, outputs=outputs, domain=domain, **attrs)
    feeds = {f"i{k}": array for k, array in enumerate(inputs) if array is not None}
    if expected:
        return list(onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds))
    return HostSegment(load(model), Recipe.of_preset("xla"), Target.parse("cpu"))(list(feeds.values()))


def model_of(op: str, *inputs: Any, outputs: int, domain: str, **attrs: Any) -> onnx.ModelProto:
    """A model of one node on inputs of these types."""
    names = ["" if array is None else f"i{k}" for k, array in enumerate(inputs)]
    infos = [
        helper.make_tensor_value_info(name, STRING if array.dtype == object else helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
        if name
    ]
    node = helper.make_node(op, names, [f"o{k}" for k in range(outputs)], domain=domain, **attrs)
    made = [onnx.ValueInfoProto(name=f"o{k}") for k in range(outputs)]
    imports = [helper.make_opsetid("", 21), *[helper.make_opsetid(domain, 4)] * bool(domain)]
    return helper.make_model(helper.make_graph([node], "one", infos, made), opset_imports=imports, ir_version=10)


def text(*items: Any) -> np.ndarray:
    return np.asarray(items, object)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 0), ()])
def test_non_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    x = rng.integers(0, 2, shape).astype(np.float32)
    (found,) = run("NonZero", x)
    if shape:
        np.testing.assert_array_equal(found, run("NonZero", x, expected=True)[0])
    else:
        assert found.shape == (0, int(x.item()))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(rng: np.random.Generator, axis: int | None) -> None:
    x, condition = rng.standard_normal((3, 4)).astype(np.float32), np.array([True, False, True])
    attrs = {} if axis is None else {"axis": axis}
    np.testing.assert_array_equal(run("Compress", x, condition, **attrs)[0], run("Compress", x, condition, expected=True, **attrs)[0])


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("ordered", [0, 1])
def test_unique(rng: np.random.Generator, axis: int | None, ordered: int) -> None:
    x = rng.integers(0, 2, (5, 3)).astype(np.int64)
    attrs = {"sorted": ordered} | ({} if axis is None else {"axis": axis})
    for found, wanted in zip(run("Unique", x, outputs=4, **attrs), run("Unique", x, outputs=4, expected=True, **attrs), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_unique_strings_keep_their_order() -> None:
    values, first, inverse, counts = run("Unique", text("b", "a", "b"), outputs=4, sorted=0)
    assert (values.tolist(), first.tolist(), inverse.tolist(), counts.tolist()) == (["b", "a"], [0, 1], [0, 1, 0], [2, 1])


@pytest.mark.parametrize("centered", [0, 1])
@pytest.mark.parametrize("limit", [0, 3, 100])
def test_non_max_suppression(rng: np.random.Generator, centered: int, limit: int) -> None:
    boxes = rng.random((2, 20, 4), np.float32)
    boxes[..., 2:] += 0.0 if centered else boxes[..., :2]
    scores = rng.random((2, 3, 20), np.float32)
    inputs = (boxes, scores, np.asarray([limit]), np.asarray([0.3], np.float32), np.asarray([0.2], np.float32))
    found, wanted = (run("NonMaxSuppression", *inputs, center_point_box=centered, expected=flag)[0] for flag in (False, True))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, wanted)


def test_strings_are_split_and_joined() -> None:
    parts, counts = run("StringSplit", text("a b  c", "", "d"), outputs=2)
    assert (parts.tolist(), counts.tolist()) == ([["a", "b", "c"], ["", "", ""], ["d", "", ""]], [3, 0, 1])
    assert run("StringSplit", text("a,b,c"), outputs=2, delimiter=",", maxsplit=1)[0].tolist() == [["a", "b,c"]]
    assert run("StringConcat", text("a", "ü"), text("!"))[0].tolist() == ["a!", "ü!"]
    assert run("RegexFullMatch", text("kopt", "kopt2"), pattern="[a-z]+")[0].tolist() == [True, False]
    assert run("Equal", text("a", "b"), text("b"))[0].tolist() == [False, True]


def test_strings_become_numbers_and_back() -> None:
    found = run("Cast", text("1.5", "-INF", "NaN"), to=1)[0]
    np.testing.assert_array_equal(found, np.array([1.5, -np.inf, np.nan], np.float32))
    assert run("Cast", text("7", "-2"), to=7)[0].tolist() == [7, -2]
    assert run("Cast", np.array([1.5, np.inf, np.nan, 2], np.float32), to=8)[0].tolist() == ["1.5", "INF", "NaN", "2"]


def test_strings_move_like_numbers() -> None:
    x = text("a", "b", "c", "d").reshape(2, 2)
    assert run("Transpose", x, perm=[1, 0])[0].tolist() == [["a", "c"], ["b", "d"]]
    assert run("Gather", x, np.asarray([-1]), axis=0)[0].tolist() == [["c", "d"]]
    assert run("GatherElements", x, np.asarray([[1, -1]]), axis=0)[0].tolist() == [["c", "d"]]
    assert run("GatherND", x, np.asarray([[0, 1], [1, 0]]))[0].tolist() == ["b", "c"]
    assert run("ScatterND", x, np.asarray([[1, 1]]), text("z"))[0].tolist() == [["a", "b"], ["c", "z"]]
    assert run("ScatterElements", x, np.asarray([[1, 0]]), text(["y", "z"]), axis=0)[0].tolist() == [["a", "z"], ["y", "d"]]
    assert run("Tile", x, np.asarray([1, 2]))[0].tolist() == [["a", "b", "a", "b"], ["c", "d", "c", "d"]]
    assert run("Flatten", x, axis=0)[0].tolist() == [["a", "b", "c", "d"]]
    assert run("Where", np.array([[True], [False]]), x, text("-"))[0].tolist() == [["a", "b"], ["-", "-"]]


def test_an_index_out_of_range_is_an_error_that_names_the_node() -> None:
    with pytest.raises(InputError, match=r"(?s)Gather does not accept its values.*o0"):
        run("Gather", text("a"), np.asarray([5]))


def test_an_image_that_is_none_and_one_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot be decoded"):
        run("ImageDecoder", np.zeros(10, np.uint8))
    monkeypatch.setattr(image, "MAX_PIXELS", 3)
    pnm = np.frombuffer(b"P5 2 2 255 abcd", np.uint8)
    with pytest.raises(InputError, match="too large"):
        run("ImageDecoder", pnm)


def test_without_pillow_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match="Pillow"):
        run("ImageDecoder", np.zeros(10, np.uint8))
