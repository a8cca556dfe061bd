"""Gradients of parts of models, against derivatives worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kopt.errors import InvalidModelError
from kopt.frontend.load import load
from support.node_cases import run_model

_TEXT = """g (float[N,3] x, float[3,2] w, float[N,2] z) => (float[N,2] y, float[N,3] dx, float[3,2] dw) {
  two = Constant <value = float {2.0}> ()
  h = MatMul(x, w)
  doubled = Mul(h, two)
  y = Mul(doubled, z)
  dx, dw = ai.onnx.preview.training.Gradient <xs = ["x", "w"], zs = ["z"], y = "y"> (x, w, z)
}"""


def _model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 7, opset_import: ["": 12, "ai.onnx.preview.training": 1]>\n{text}')


def _arrays() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=shape).astype(np.float32) for shape in ((4, 3), (3, 2), (4, 2))]


def test_product() -> None:
    x, w, z = _arrays()
    y, dx, dw = run_model(_model(_TEXT), x, w, z)
    np.testing.assert_allclose(y, 2 * (x @ w) * z, rtol=1e-5)
    np.testing.assert_allclose(dx, 2 * z @ w.T, rtol=1e-5)
    np.testing.assert_allclose(dw, 2 * x.T @ z, rtol=1e-5)


def test_at_an_intermediate_value_and_elsewhere() -> None:
    text = _TEXT.replace('xs = ["x", "w"], zs = ["z"]', 'xs = ["h", "z"]').replace("(x, w, z)\n}", "(z, h)\n}")
    text = text.replace("float[N,3] dx, float[3,2] dw", "float[N,2] dx, float[N,2] dw")
    x, w, z = _arrays()
    _, dh, dz = run_model(_model(text), x, w, z)  # asked for at h = z and z = h
    np.testing.assert_allclose(dh, 2 * (x @ w), rtol=1e-5)
    np.testing.assert_allclose(dz, 2 * z, rtol=1e-5)


@pytest.mark.parametrize("change", [('y = "y"', 'y = "other"'), ('zs = ["z"], ', "")])
def test_names_that_do_not_fit_are_refused(change: tuple[str, str]) -> None:
    with pytest.raises(InvalidModelError, match="Gradient"):
        load(_model(_TEXT.replace(*change)))
