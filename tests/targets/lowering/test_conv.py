"""Convolutions in every formulation, against ONNX Runtime in f32 and onnx.reference in f64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kopt.errors import UnsupportedModelError
from kopt.frontend.load import load
from kopt.hardware import Target
from kopt.ir.builder import Builder
from kopt.ir.types import DType
from kopt.targets.lowering.conv import Window, conv_nhwc, direct
from kopt.targets.xla import XlaBackend, evaluate_node
from support.graphs import node_model, run_ort, run_reference
from support.node_cases import bound, cases_of, check, run_model

# what is chosen by shape, and one shape that chooses it: input, weight, attributes
FORMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "dot": ((3, 5, 7, 9), (4, 5, 1, 1), {}),
    "dot_strided": ((3, 5, 7, 9), (4, 5, 1, 1), {"strides": [2, 3]}),
    "1x1_padded": ((1, 5, 7, 9), (4, 5, 1, 1), {"pads": [1, 0, 2, 1]}),
    "im2col_few_channels": ((3, 3, 9, 11), (6, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    "im2col_patches": ((3, 40, 13, 9), (6, 40, 4, 4), {"strides": [4, 4]}),
    "im2col_small_output": ((3, 40, 7, 5), (6, 40, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    "im2col_dilated": ((3, 3, 9, 11), (6, 3, 2, 2), {"strides": [2, 2], "dilations": [2, 2]}),
    "winograd": ((3, 33, 13, 11), (35, 33, 3, 3), {"pads": [1, 1, 1, 1]}),
    "winograd_asymmetric": ((1, 33, 13, 12), (35, 33, 3, 3), {"pads": [0, 1, 2, 0]}),
    "direct_3x3": ((3, 20, 13, 11), (35, 20, 3, 3), {"pads": [1, 1, 1, 1]}),
    "direct_dilated": ((1, 40, 17, 15), (6, 40, 3, 3), {"dilations": [2, 3], "pads": [1, 2, 3, 0]}),
    "direct_5x4": ((3, 20, 13, 11), (7, 20, 5, 4), {"strides": [2, 1], "pads": [2, 1, 2, 2]}),
    "depthwise": ((3, 5, 13, 11), (5, 1, 3, 3), {"group": 5, "pads": [1, 1, 1, 1]}),
    "depthwise_strided": ((3, 5, 13, 11), (5, 1, 5, 3), {"group": 5, "strides": [2, 3], "pads": [2, 0, 1, 1]}),
    "depthwise_dilated": ((1, 5, 13, 11), (5, 1, 3, 2), {"group": 5, "dilations": [3, 2], "pads": [2, 1, 1, 0]}),
    "depthwise_multiplied": ((3, 5, 9, 8), (15, 1, 3, 3), {"group": 5}),
    "grouped": ((3, 6, 9, 8), (9, 2, 3, 3), {"group": 3, "pads": [1, 1, 1, 1], "strides": [1, 2]}),
    "grouped_1x1": ((3, 6, 9, 8), (9, 2, 1, 1), {"group": 3}),
    "1d": ((3, 5, 17), (7, 5, 4), {"strides": [2], "pads": [1, 2], "dilations": [2]}),
    "1d_kernel_1": ((3, 5, 17), (7, 5, 1), {"strides": [3]}),
    "1d_depthwise": ((3, 5, 17), (10, 1, 3), {"group": 5, "strides": [2], "pads": [2, 1], "dilations": [2]}),
    "3d": ((2, 3, 5, 6, 7), (4, 3, 3, 2, 1), {"strides": [1, 2, 3], "pads": [1, 0, 0, 1, 1, 1]}),
    "1d_patches": ((3, 5, 17), (7, 5, 4), {"strides": [4]}),
    "3d_patches": ((2, 3, 5, 6, 7), (4, 3, 2, 3, 1), {"strides": [2, 3, 1]}),
    "3d_kernel_1": ((2, 3, 5, 6, 7), (4, 3, 1, 1, 1), {"strides": [1, 2, 3]}),
    "3d_depthwise": ((2, 3, 5, 6, 7), (3, 1, 3, 3, 3), {"group": 3, "pads": [1, 1, 1, 1, 1, 1], "strides": [2, 1, 2]}),
}


def _inputs(x: tuple[int, ...], weight: tuple[int, ...], dtype: Any = np.float32, *, bias: int | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {"x": x, "w": weight, "b": (weight[0] if bias is None else bias,)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def _agrees(op: str, inputs: dict[str, np.ndarray], **attrs: Any) -> None:
    dtype = inputs["x"].dtype
    model = node_model(op, inputs, opset=11, constants=("w", "b"), **attrs)
    (ours,) = run_model(model, inputs["x"])
    (theirs,) = (run_ort if dtype == np.float32 else run_reference)(model, {"x": inputs["x"]})
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_onnx_runtime(form: str) -> None:
    x, weight, attrs = FORMS[form]
    _agrees("Conv", _inputs(x, weight), **attrs)


@pytest.mark.parametrize("form", ["direct_5x4", "dot", "depthwise", "1d_depthwise", "1d_kernel_1", "3d_depthwise", "3d_kernel_1"])
def test_depthwise_never_reaches_the_general_convolution(form: str) -> None:
    shape, weight, attrs = FORMS[form]
    inputs = _inputs(shape, weight)
    graph, _ = bound(load(node_model("Conv", inputs, opset=11, constants=("w", "b"), **attrs)), [inputs["x"]])
    text = XlaBackend().lower(graph, Target.parse("cpu")).text
    assert ("stablehlo.convolution" in text) == (form == "direct_5x4")


@pytest.mark.parametrize("form", ["dot", "im2col_few_channels", "winograd", "direct_dilated", "depthwise", "grouped", "1d", "3d_depthwise"])
def test_f64_keeps_its_precision(form: str) -> None:
    x, weight, attrs = FORMS[form]
    _agrees("Conv", _inputs(x, weight, np.float64), **attrs)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(
    ("x", "weight", "attrs"),
    [
        ((2, 3, 8, 7), (4, 3, 3, 2), {"strides": [2, 3]}),
        ((2, 4, 8, 7), (4, 1, 3, 4), {"strides": [1, 2], "group": 4}),
        ((2, 3, 9), (4, 3, 4), {"strides": [2]}),
    ],
)
def test_auto_pad(x: tuple[int, ...], weight: tuple[int, ...], attrs: dict[str, Any], auto_pad: str) -> None:
    _agrees("Conv", _inputs(x, weight), auto_pad=auto_pad, **attrs)


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_give_no_rows(form: str) -> None:
    x, weight, attrs = FORMS[form]
    inputs = _inputs((0, *x[1:]), weight)
    (full,) = run_ort(node_model("Conv", _inputs(x, weight), opset=11, **attrs), _inputs(x, weight))
    (ours,) = run_model(node_model("Conv", inputs, opset=11, constants=("w", "b"), **attrs), inputs["x"])
    assert ours.shape == (0, *full.shape[1:])


@pytest.mark.parametrize("form", ["dot", "im2col_patches", "winograd", "depthwise", "1d_depthwise"])
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_16_bit_floats_are_added_up_in_f32(dtype: str, form: str) -> None:
    x, weight, attrs = FORMS[form]
    narrow = DType(dtype).numpy
    arrays = [array.astype(narrow) for array in _inputs(x, weight).values()]
    b = Builder()
    b.emit("Conv", *(b.input(f"i{k}", dtype, array.shape) for k, array in enumerate(arrays)), attrs=attrs)
    (ours,) = evaluate_node(b.nodes[0], arrays)
    wide = dict(zip("xwb", (array.astype(np.float32) for array in arrays), strict=True))
    (theirs,) = run_ort(node_model("Conv", wide, opset=11, **attrs), wide)
    assert ours.dtype == narrow
    np.testing.assert_allclose(ours.astype(np.float32), theirs, rtol=2 * float(2.0 ** -(10 if dtype == "f16" else 7)), atol=2e-3)


def test_nan_and_inf_spoil_only_the_windows_that_see_them() -> None:
    inputs = _inputs((1, 4, 11, 10), (4, 1, 3, 3))
    inputs["x"][0, 1, 5, 5], inputs["x"][0, 2, 0, 0] = np.nan, np.inf
    _agrees("Conv", inputs, group=4, pads=[1, 1, 1, 1])


TRANSPOSED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((3, 4, 5, 6), (4, 3, 3, 2), {}),
    "strided": ((3, 4, 5, 6), (4, 3, 3, 4), {"strides": [2, 3], "pads": [1, 0, 0, 2], "output_padding": [1, 2]}),
    "dilated": ((1, 4, 5, 6), (4, 3, 3, 2), {"dilations": [2, 3], "strides": [2, 1]}),
    "grouped": ((3, 4, 5, 6), (4, 3, 3, 3), {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "depthwise": ((3, 4, 5, 6), (4, 1, 2, 2), {"group": 4, "strides": [2, 2]}),
    "wanted_size": ((3, 4, 5, 6), (4, 3, 3, 3), {"strides": [3, 2], "output_shape": [16, 13]}),
    "kernel_below_stride": ((2, 4, 5, 6), (4, 3, 1, 1), {"strides": [3, 2]}),
    "1d": ((3, 4, 7), (4, 3, 5), {"strides": [2], "pads": [1, 2]}),
    "3d": ((2, 4, 3, 4, 5), (4, 3, 2, 3, 1), {"strides": [2, 1, 2], "pads": [0, 1, 0, 1, 1, 0]}),
}


@pytest.mark.parametrize("form", TRANSPOSED)
def test_transposed_equals_onnx_runtime(form: str) -> None:
    x, weight, attrs = TRANSPOSED[form]
    _agrees("ConvTranspose", _inputs(x, weight, bias=weight[1] * attrs.get("group", 1)), **attrs)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_transposed_auto_pad(auto_pad: str) -> None:
    _agrees("ConvTranspose", _inputs((2, 4, 5, 6), (4, 3, 3, 4), bias=3), auto_pad=auto_pad, strides=[2, 3])


@pytest.mark.parametrize("form", ["direct", "im2col", "winograd2", "winograd4"])
@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 2), (1, 0))])
def test_three_by_three_in_every_form(pads: tuple[tuple[int, int], tuple[int, int]], form: str) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 13, 11, 33)).astype(np.float32), rng.standard_normal((35, 33, 3, 3)).astype(np.float32)
    window = Window((3, 3), (1, 1), (1, 1), pads)
    ours = conv_nhwc(x, weight, window, 1, {"conv3x3": form})
    theirs = direct(x.astype(np.float64), weight.astype(np.float64), window, 1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", cases_of("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"))
def test_node_case(name: str) -> None:
    check(name)


@pytest.mark.parametrize("form", ["dot", "im2col_few_channels", "winograd", "depthwise_multiplied", "grouped", "1d", "1d_depthwise", "3d"])
def test_channels_last_is_the_same_convolution(form: str) -> None:
    x, weight, attrs = FORMS[form]
    arrays = _inputs(x, weight)
    first, last = Builder(), Builder()
    moved = [np.moveaxis(arrays["x"], 1, -1), arrays["w"], arrays["b"]]
    for b, given, op, domain in ((first, list(arrays.values()), "Conv", ""), (last, moved, "ConvNhwc", "com.kopt")):
        b.emit(op, *(b.input(f"i{k}", "f32", array.shape) for k, array in enumerate(given)), attrs=attrs, domain=domain)
    (expected,), (ours,) = evaluate_node(first.nodes[0], list(arrays.values())), evaluate_node(last.nodes[0], moved)
    assert ours.shape == last.nodes[0].output.shape
    np.testing.assert_array_equal(ours, np.moveaxis(expected, 1, -1))


def test_an_unknown_activation_is_named() -> None:
    b = Builder()
    values = [b.input(name, "f32", shape) for name, shape in (("x", (1, 2, 3, 3)), ("w", (2, 2, 1, 1)))]
    b.emit("FusedConv", *values, attrs={"activation": "Swoosh"}, domain="com.microsoft")
    with pytest.raises(UnsupportedModelError, match="unknown activation 'Swoosh'"):
        evaluate_node(b.nodes[0], [np.zeros(value.shape, np.float32) for value in values])
