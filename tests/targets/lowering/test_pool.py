"""Pools against ONNX Runtime in f32 and onnx.reference in f64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.targets.xla import evaluate_node
from support.graphs import node_model, run_ort, run_reference
from support.node_cases import cases_of, check, run_model

WINDOWS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((3, 2, 7, 9), {"kernel_shape": [3, 2]}),
    "strided_padded": ((3, 2, 7, 9), {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 2, 1]}),
    "ceil": ((1, 2, 7, 10), {"kernel_shape": [3, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    "ceil_last_in_padding": ((1, 2, 4, 4), {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    "same_upper": ((3, 2, 7, 10), {"kernel_shape": [3, 2], "strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    "same_lower": ((3, 2, 7, 10), {"kernel_shape": [3, 2], "strides": [2, 3], "auto_pad": "SAME_LOWER"}),
    "valid": ((3, 2, 7, 10), {"kernel_shape": [3, 2], "strides": [2, 3], "auto_pad": "VALID"}),
    "1d": ((3, 2, 11), {"kernel_shape": [4], "strides": [3], "pads": [2, 1]}),
    "3d": ((2, 2, 5, 4, 3), {"kernel_shape": [2, 3, 2], "strides": [1, 2, 1], "pads": [1, 0, 0, 0, 1, 1]}),
    "no_rows": ((0, 2, 7, 9), {"kernel_shape": [3, 2]}),
}


def _random(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def _agrees(op: str, x: np.ndarray, *, opset: int = 19, outputs: tuple[str, ...] = ("y",), **attrs: Any) -> None:
    model = node_model(op, {"x": x}, opset=opset, outputs=outputs, **attrs)
    theirs = (run_ort if x.dtype == np.float32 else run_reference)(model, {"x": x})
    for result, expected in zip(run_model(model, x), theirs, strict=True):
        assert result.dtype == expected.dtype
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", WINDOWS)
def test_max(window: str) -> None:
    shape, attrs = WINDOWS[window]
    _agrees("MaxPool", _random(shape), opset=12, **attrs)


# ONNX Runtime reads storage_order its own way beyond two axes
@pytest.mark.parametrize(
    ("storage_order", "window"), [(k, name) for k in (0, 1) for name, (shape, _) in WINDOWS.items() if not k or len(shape) == 4]
)
def test_indices_of_the_maxima(storage_order: int, window: str) -> None:
    shape, attrs = WINDOWS[window]
    _agrees("MaxPool", _random(shape), opset=12, outputs=("y", "i"), storage_order=storage_order, **attrs)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("include", [0, 1])
def test_average(include: int, window: str) -> None:
    shape, attrs = WINDOWS[window]
    _agrees("AveragePool", _random(shape), count_include_pad=include, **attrs)


@pytest.mark.parametrize("window", [name for name in WINDOWS if name != "3d"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_norm(p: int, window: str) -> None:
    shape, attrs = WINDOWS[window]
    _agrees("LpPool", _random(shape), opset=18, p=p, **attrs)


@pytest.mark.parametrize("dilations", [[2, 3], [1, 2]])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_dilated(op: str, dilations: list[int]) -> None:
    _agrees(op, _random((2, 3, 9, 11)), kernel_shape=[3, 2], dilations=dilations, strides=[1, 2])


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_f64(op: str) -> None:
    _agrees(op, _random((2, 3, 9, 11), np.float64), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 0])


@pytest.mark.parametrize("shape", [(3, 2, 7), (3, 2, 5, 7), (2, 2, 3, 4, 5), (0, 2, 3, 4)])
@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global(op: str, shape: tuple[int, ...]) -> None:
    _agrees(op, _random(shape), **({"p": 3} if op == "GlobalLpPool" else {}))


@pytest.mark.parametrize("name", cases_of("MaxPool", "AveragePool", "LpPool", "MaxUnpool"))
def test_node_case(name: str) -> None:
    check(name)


def test_a_nan_is_the_maximum_of_its_window_and_found() -> None:
    x = _random((1, 2, 5, 5))
    x[0, 0, 2, 2] = x[0, 0, 2, 3] = np.nan
    x[0, 1] = -np.inf
    model = node_model("MaxPool", {"x": x}, opset=12, outputs=("y", "i"), kernel_shape=[2, 2], pads=[1, 1, 0, 0])
    y, indices = run_model(model, x)
    np.testing.assert_array_equal(x.reshape(-1)[indices], y)
    assert np.isnan(y[0, 0]).sum() == 6
    assert indices[0, 0, 2, 3] == 12  # the first of two
    assert indices[0, 1, 0, 0] == 25  # not the padding, which is as low


def test_narrow_integers() -> None:
    x = np.random.default_rng(0).integers(-128, 127, (2, 3, 6, 5)).astype(np.int8)
    b = Builder()
    b.emit("MaxPool", b.input("x", "i8", x.shape), attrs={"kernel_shape": (2, 3), "pads": (1, 1, 0, 1)})
    (ours,) = evaluate_node(b.nodes[0], [x])
    (theirs,) = run_ort(node_model("MaxPool", {"x": x}, opset=12, kernel_shape=[2, 3], pads=[1, 1, 0, 1]), {"x": x})
    assert ours.dtype == np.int8
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool"])
def test_channels_last_is_the_same_pool(op: str) -> None:
    x = _random((3, 4, 7, 9))
    window = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "ceil_mode": 1}
    attrs: dict[str, Any] = {} if op.startswith("Global") else {**window, **({"p": 3} if op == "LpPool" else {})}
    first, last = Builder(), Builder()
    first.emit(op, first.input("x", "f32", x.shape), attrs=attrs)
    last.emit(f"{op}Nhwc", last.input("x", "f32", (3, 7, 9, 4)), attrs=attrs, domain="com.kopt")
    (expected,), (ours,) = evaluate_node(first.nodes[0], [x]), evaluate_node(last.nodes[0], [np.moveaxis(x, 1, -1)])
    np.testing.assert_allclose(np.moveaxis(ours, -1, 1), expected, rtol=1e-6)
