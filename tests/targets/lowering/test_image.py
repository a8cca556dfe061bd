"""Resampling against ONNX's node tests and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from support.graphs import node_model
from support.node_cases import cases_of, check, run_model


@pytest.mark.parametrize("name", cases_of("Resize", "GridSample", "AffineGrid", "RoiAlign", "Col2Im"))
def test_node_case(name: str) -> None:
    check(name)


def _agrees(op: str, inputs: dict[str, np.ndarray], constants: tuple[str, ...] = (), rtol: float = 1e-4, **attrs: Any) -> None:
    model = node_model(op, inputs, opset=20, constants=constants, **attrs)
    fed = {name: array for name, array in inputs.items() if name not in constants and not name.startswith("absent")}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, fed)
    (result,) = run_model(model, *fed.values())
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("sizes", [(2, 3, 9, 14), (2, 3, 3, 2)])
def test_resize_to_sizes(mode: str, coordinates: str, sizes: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)
    inputs = {"x": x, "absent_roi": x, "absent_scales": x, "s": np.asarray(sizes)}
    _agrees("Resize", inputs, ("s",), mode=mode, coordinate_transformation_mode=coordinates)


def test_resize_by_a_whole_factor_repeats() -> None:
    x = np.random.default_rng(0).integers(0, 255, (1, 3, 4, 5)).astype(np.uint8)
    inputs = {"x": x, "absent_roi": x, "f": np.asarray([1, 1, 2, 3], np.float32)}
    _agrees("Resize", inputs, ("f",), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
def test_grid_sample(mode: str, padding: str, corners: int) -> None:
    random = np.random.default_rng(0)
    inputs = {
        "x": random.normal(size=(2, 3, 4, 5)).astype(np.float32),
        "g": random.uniform(-1.6, 1.6, (2, 6, 3, 2)).astype(np.float32),
    }
    _agrees("GridSample", inputs, mode=mode, padding_mode=padding, align_corners=corners, rtol=1e-3)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
def test_roi_align(mode: str, ratio: int, coordinates: str) -> None:
    inputs = {
        "x": np.random.default_rng(0).normal(size=(2, 3, 12, 15)).astype(np.float32),
        "rois": np.asarray([[0, 0, 20, 18], [3, 5, 29, 22], [-9, 4, 2, 30]], np.float32),
        "b": np.asarray([0, 1, 1]),
    }
    attrs: dict[str, Any] = {"mode": mode, "sampling_ratio": ratio, "coordinate_transformation_mode": coordinates}
    _agrees("RoiAlign", inputs, ("rois",), output_height=4, output_width=3, spatial_scale=0.5, **attrs)
