"""Nodes of old opsets against ONNX Runtime on the old model; the upgraded one runs in the runtime or the reference."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from kopt.errors import InvalidModelError
from kopt.frontend.export import to_model
from kopt.frontend.load import load
from support.graphs import node_model, run_ort, run_reference

RNG = np.random.default_rng(7)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


X = f32(2, 3, 4, 5)
CASES: list[tuple[str, tuple[int, ...], dict[str, np.ndarray], dict[str, Any]]] = [
    *((f"Reduce{kind}", (7, 11, 13, 17), {"x": np.abs(X) + 1}, {"axes": [1, 3], "keepdims": 0})
      for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")),
    ("ReduceSum", (7, 11), {"x": X}, {"axes": [0, 2]}),
    ("ReduceSum", (7, 11), {"x": X}, {}),
    ("ReduceMean", (7, 13), {"x": X}, {"keepdims": 1}),
    ("Squeeze", (7, 11), {"x": f32(1, 3, 1)}, {"axes": [0]}),
    ("Squeeze", (7, 11), {"x": f32(1, 3, 1)}, {}),
    ("Unsqueeze", (7, 11), {"x": f32(3, 2)}, {"axes": [0, 2]}),
    ("Slice", (7, 9), {"x": X}, {"starts": [1, -3], "ends": [2**62, -1], "axes": [1, 3]}),
    ("Slice", (7, 9), {"x": X}, {"starts": [0, 1], "ends": [1, 3]}),
    ("Pad", (7, 10), {"x": X}, {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "value": 1.5}),
    ("Pad", (7, 10), {"x": X}, {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "mode": "reflect"}),
    ("Pad", (7,), {"x": X}, {"pads": [0, 0, -1, 0, 0, 0, 0, -2]}),
    ("Clip", (7, 10), {"x": X}, {"min": -0.5, "max": 0.25}),
    ("Clip", (7, 10), {"x": X}, {"max": 0.25}),
    ("Clip", (7,), {"x": X}, {}),
    ("TopK", (7, 9), {"x": X}, {"k": 2, "axis": 1}),
    ("TopK", (7, 9), {"x": X}, {"k": 3}),
    ("Upsample", (7,), {"x": X}, {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}),
    ("Upsample", (7,), {"x": X}, {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}),
    ("Upsample", (9,), {"x": X, "s": np.array([1, 1, 2, 2], np.float32)}, {"mode": "nearest"}),
    ("Upsample", (9,), {"x": X, "s": np.array([1, 1, 2, 2], np.float32)}, {"mode": "linear"}),
    ("Resize", (10,), {"x": X, "s": np.array([1, 1, 2, 2], np.float32)}, {"mode": "nearest"}),
    ("Resize", (10,), {"x": X, "s": np.array([1, 1, 0.5, 0.5], np.float32)}, {"mode": "linear"}),
    ("Resize", (11, 12, 13, 18), {"x": X, "roi": f32(0), "s": f32(0), "z": i64(2, 3, 8, 7)}, {"mode": "linear"}),
    ("Resize", (11, 13), {"x": X, "roi": f32(0), "s": np.array([1, 1, 2, 2], np.float32)}, {"mode": "cubic", "cubic_coeff_a": -0.5}),
    ("Dropout", (7, 10), {"x": X}, {"ratio": 0.3}),
    *(("Softmax", (7, 11, 12), {"x": X}, {"axis": axis}) for axis in (1, 2, 3)),
    ("Softmax", (7, 11), {"x": X}, {}),
    ("Softmax", (11,), {"x": X}, {"axis": -2}),
    ("LogSoftmax", (7, 12), {"x": X}, {"axis": 2}),
    ("Hardmax", (7, 12), {"x": X}, {"axis": 1}),
    ("Softmax", (13,), {"x": X}, {"axis": 1}),
    ("BatchNormalization", (7, 9), {"x": X, "s": f32(3), "b": f32(3), "m": f32(3), "v": np.abs(f32(3))}, {"epsilon": 1e-3}),
    ("RoiAlign", (10,), {"x": f32(1, 2, 9, 9), "r": np.array([[0, 0, 6, 7]], np.float32), "i": i64(0)},
     {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.8}),
    ("Scatter", (9,), {"x": f32(3, 3), "i": np.array([[1, 0, 2]]), "u": f32(1, 3)}, {"axis": 0}),
    ("MeanVarianceNormalization", (9, 13), {"x": X}, {}),
    ("GridSample", (16,), {"x": X, "g": np.tanh(f32(2, 6, 7, 2))}, {"mode": "bilinear", "padding_mode": "border"}),
    ("GridSample", (16,), {"x": X, "g": np.tanh(f32(2, 6, 7, 2))}, {"mode": "nearest", "align_corners": 1}),
    ("Gemm", (7, 9, 11), {"a": f32(4, 3), "b": f32(5, 4), "c": f32(5)}, {"transA": 1, "transB": 1, "alpha": 0.5}),
    ("Add", (7, 13), {"a": X, "b": f32(4, 1)}, {}),
    ("Flatten", (7, 9, 11), {"x": X}, {"axis": 2}),
    ("ArgMax", (7, 11, 12), {"x": X}, {"axis": 1, "keepdims": 0}),
    ("AveragePool", (7, 10, 11), {"x": X}, {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "count_include_pad": 1}),
    ("MaxPool", (7, 8, 10, 11), {"x": X}, {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("LpPool", (7, 11), {"x": X}, {"kernel_shape": [2, 2], "p": 2}),
    ("Cast", (7, 9, 13), {"x": X}, {"to": 7}),
    ("PRelu", (7, 9), {"x": X, "s": f32(3, 1, 1)}, {}),
    ("Gather", (7, 11), {"x": X, "i": i64(2, 0)}, {"axis": 1}),
    ("DepthToSpace", (7, 11), {"x": f32(1, 8, 2, 3)}, {"blocksize": 2}),
    ("Tile", (7, 13), {"x": f32(2, 3), "r": i64(2, 2)}, {}),
    ("Selu", (7,), {"x": X}, {}),
    ("LRN", (7, 13), {"x": X}, {"size": 3}),
    ("QuantizeLinear", (10, 13), {"x": X, "s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}, {}),
    ("CumSum", (11, 14), {"x": X, "a": np.array(1)}, {"reverse": 1}),
    ("OneHot", (9, 11), {"i": i64(0, 2, 1), "d": np.array(3), "v": np.array([0, 1], np.float32)}, {}),
]  # fmt: skip
SHAPING = {"z", "s", "r", "roi", "d", "a", "i"}


def split_cases() -> list[tuple[str, int, dict[str, np.ndarray], dict[str, Any]]]:
    return [(op, version, inputs, attrs) for op, versions, inputs, attrs in CASES for version in versions]


def run_either(model: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """ONNX Runtime where it has the operator at that version, the reference evaluator otherwise."""
    try:
        return run_ort(model, inputs)
    except Exception:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return run_reference(model, inputs)


def assert_upgrades(old: Any, inputs: dict[str, np.ndarray], expected: list[np.ndarray] | None = None) -> None:
    expected = run_either(old, inputs) if expected is None else expected
    new = to_model(load(old))
    assert new.opset_import[0].version >= 13
    for got, want in zip(run_either(new, inputs), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("op", "version", "inputs", "attrs"), split_cases(), ids=lambda value: str(value)[:30])
def test_an_old_node_keeps_its_meaning(op: str, version: int, inputs: dict[str, np.ndarray], attrs: dict[str, Any]) -> None:
    outputs = ["y", "i"] if op == "TopK" else ["y"]
    renamed = {f"in_{name}": array for name, array in inputs.items()}
    constants = [
        name for name in renamed if name.removeprefix("in_") in SHAPING and op in ("Resize", "Upsample", "Tile", "OneHot", "CumSum")
    ]
    old = node_model(op, renamed, opset=version, outputs=outputs, constants=constants, **attrs)
    assert_upgrades(old, {name: array for name, array in renamed.items() if name not in constants})


@pytest.mark.parametrize("version", [7, 11, 13, 18])
def test_split_by_attribute_input_or_evenly(version: int) -> None:
    x = f32(2, 6)
    extra: dict[str, Any] = {"num_outputs": 2} if version >= 18 else {}
    assert_upgrades(node_model("Split", {"x": x}, opset=version, outputs=["a", "b"], axis=1, **extra), {"x": x})
    if version < 13:
        assert_upgrades(node_model("Split", {"x": x}, opset=version, outputs=["a", "b"], axis=1, split=[2, 4]), {"x": x})
    else:
        old = node_model("Split", {"x": x, "s": i64(2, 4)}, opset=version, outputs=["a", "b"], constants=["s"], axis=1)
        assert_upgrades(old, {"x": x})


# ONNX Runtime does not run what follows, so numpy says what is right.


def test_broadcast_along_an_axis_below_opset_7() -> None:
    a, b = f32(2, 3, 4, 5), f32(3, 4)
    assert_upgrades(node_model("Add", {"a": a, "b": b}, opset=6, broadcast=1, axis=1), {"a": a, "b": b}, [a + b[None, :, :, None]])
    c = f32(4, 5)
    assert_upgrades(node_model("Mul", {"a": a, "b": c}, opset=6, broadcast=1), {"a": a, "b": c}, [a * c])


def test_slope_per_channel_below_opset_7() -> None:
    x, slope = f32(2, 3, 4, 5), f32(3)
    expected = np.where(x < 0, x * slope[None, :, None, None], x)
    assert_upgrades(node_model("PRelu", {"x": x, "s": slope}, opset=6), {"x": x, "s": slope}, [expected])


def test_cast_by_name_and_reshape_by_attribute() -> None:
    x = f32(2, 6)
    assert_upgrades(node_model("Cast", {"x": x}, opset=5, to="DOUBLE"), {"x": x}, [x.astype(np.float64)])
    assert_upgrades(node_model("Reshape", {"x": x}, opset=4, shape=[3, -1]), {"x": x}, [x.reshape(3, 4)])


def test_concat_had_a_default_axis() -> None:
    a, b = f32(2, 1), f32(2, 3)
    assert_upgrades(node_model("Concat", {"a": a, "b": b}, opset=3), {"a": a, "b": b}, [np.concatenate([a, b], 1)])


def test_paddings_of_opset_1() -> None:
    x = f32(2, 3)
    assert_upgrades(node_model("Pad", {"x": x}, opset=1, paddings=[0, 1, 0, 2], value=2.0), {"x": x},
                    [np.pad(x, ((0, 0), (1, 2)), constant_values=2)])  # fmt: skip


def test_upsample_of_opset_1() -> None:
    x = f32(1, 1, 2, 3)
    old = node_model("Upsample", {"x": x}, opset=1, height_scale=2.0, width_scale=2.0, mode="nearest")
    assert_upgrades(old, {"x": x}, [x.repeat(2, 2).repeat(2, 3)])


def test_group_normalization_of_opset_18_scales_groups() -> None:
    x, scale, bias = f32(2, 4, 3), f32(2), f32(2)
    groups = x.reshape(2, 2, -1)
    normal = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    expected = (normal * scale[None, :, None] + bias[None, :, None]).reshape(x.shape)
    old = node_model("GroupNormalization", {"x": x, "s": scale, "b": bias}, opset=18, num_groups=2)
    assert_upgrades(old, {"x": x, "s": scale, "b": bias}, [expected])


def test_transform_along_an_attribute_axis() -> None:
    x = f32(2, 6, 1)
    got = np.fft.fft(x[..., 0], axis=1)
    old = node_model("DFT", {"x": x}, opset=17, axis=1)
    assert_upgrades(old, {"x": x}, [np.stack([got.real, got.imag], -1).astype(np.float32)])


def test_a_mask_of_the_inputs_type() -> None:
    x = f32(2, 3)
    graph = load(node_model("Dropout", {"x": x}, opset=7, outputs=["y", "mask"], ratio=0.5))
    assert [str(value.type) for value in graph.outputs] == ["f32[2,3]", "f32[2,3]"]


@pytest.mark.parametrize("version", [1, 6])
def test_recurrent_nodes_before_opset_7(version: int) -> None:
    x, w, r = f32(3, 2, 4), f32(1, 20, 4), f32(1, 20, 5)
    new = node_model("LSTM", {"x": x, "w": w, "r": r}, opset=7, outputs=["y", "h", "c"], hidden_size=5)
    old = node_model("LSTM", {"x": x, "w": w, "r": r}, opset=version, outputs=["y", "h", "c"], hidden_size=5, output_sequence=1)
    assert_upgrades(old, {"x": x, "w": w, "r": r}, run_ort(new, {"x": x, "w": w, "r": r}))


def test_what_cannot_be_upgraded_is_refused_by_name() -> None:
    with pytest.raises(InvalidModelError, match="spatial=0"):
        load(node_model("BatchNormalization", dict.fromkeys("xsbmv", X), opset=7, spatial=0))
    with pytest.raises(InvalidModelError, match="tf_half_pixel_for_nn"):
        load(node_model("Resize", {"x": X, "r": f32(0), "s": f32(4)}, opset=11, coordinate_transformation_mode="tf_half_pixel_for_nn"))
