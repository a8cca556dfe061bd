"""Transforms and windows against ONNX's node tests and numpy."""

from __future__ import annotations

import numpy as np
import pytest

from support.graphs import node_model
from support.node_cases import cases_of, check, run_model

_OPS = ("DFT", "STFT", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix")
_ROUNDED = ("test_dft_inverse_opset19", "test_dft_inverse")  # expect 1.9e-7 where 0 is exact


@pytest.mark.parametrize("name", cases_of(*_OPS, without=_ROUNDED))
def test_node_case(name: str) -> None:
    check(name)


@pytest.mark.parametrize("length", [None, 4, 9])
@pytest.mark.parametrize("onesided", [0, 1])
def test_transform_of_another_length(length: int | None, onesided: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 7, 3, 1)).astype(np.float32)
    inputs = {"x": x, "absent" if length is None else "n": np.asarray(length or 0), "a": np.asarray(1)}
    model = node_model("DFT", inputs, opset=20, onesided=onesided, constants=("a",) if length is None else ("n", "a"))
    (result,) = run_model(model, x)
    expected = (np.fft.rfft if onesided else np.fft.fft)(x[..., 0], length, 1)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.stack([expected.real, expected.imag], -1), rtol=1e-3, atol=1e-5)


def test_frames_overlap() -> None:
    x = np.random.default_rng(0).normal(size=(2, 40, 1))
    window = np.hanning(8)
    inputs = {"x": x, "step": np.asarray(3), "w": window}
    (result,) = run_model(node_model("STFT", inputs, opset=17, constants=("step",)), x, window)
    frames = np.stack([x[:, k : k + 8, 0] * window for k in range(0, 33, 3)], 1)
    expected = np.fft.rfft(frames)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, np.stack([expected.real, expected.imag], -1), rtol=1e-9, atol=1e-9)
