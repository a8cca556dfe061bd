"""Scan of opset 8 against a loop in numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kopt.errors import InvalidModelError
from kopt.frontend.load import load
from support.node_cases import run_model

_TEXT = """g (float[B,2] start, float[B,T,2] rows, float[B,T] factors) => (float[B,2] last, float[B,T,2] sums, float[B,T,2] turned) {
  last, sums, turned = Scan ("", start, rows, factors) <num_scan_inputs = 2, directions = [0, 1],
    body = b (float[2] s, float[2] row, float factor) => (float[2] t, float[2] out, float[2] other) {
      scaled = Mul(row, factor)
      t = Add(s, scaled)
      out = Identity(t)
      other = Neg(scaled)
  }>
}"""


def _model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 3, opset_import: ["": 8]>\n{text}')


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_and_directions(batch: int) -> None:
    random = np.random.default_rng(0)
    start, rows, factors = (random.normal(size=shape).astype(np.float32) for shape in ((batch, 2), (batch, 4, 2), (batch, 4)))
    scaled = rows * factors[:, ::-1, None]
    last, sums, turned = run_model(_model(_TEXT), start, rows, factors)
    expected = start[:, None] + np.cumsum(scaled, 1)
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, expected[:, -1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(turned, -scaled, rtol=1e-5)


def _with_lengths(text: str) -> onnx.ModelProto:
    return _model(text.replace('("", start', "(lengths, start").replace("g (float[B,2] start", "g (int64[B] lengths, float[B,2] start"))


def test_sequences_of_unequal_lengths() -> None:
    random, lengths = np.random.default_rng(0), np.array([3, 0, 4])
    start, rows, factors = (random.normal(size=shape).astype(np.float32) for shape in ((3, 2), (3, 4, 2), (3, 4)))
    model = _with_lengths(_TEXT.replace(", directions = [0, 1]", ""))
    last, sums, turned = run_model(model, lengths, start, rows, factors)
    scaled = rows * factors[..., None]
    expected = start[:, None] + np.cumsum(scaled, 1)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(last[row], expected[row, length - 1] if length else start[row], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sums[row, :length], expected[row, :length], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(turned[row, :length], -scaled[row, :length], rtol=1e-5)


def test_unequal_lengths_backwards_are_refused() -> None:
    with pytest.raises(InvalidModelError, match="sequence_lens"):
        load(_with_lengths(_TEXT))
