"""Rows that a mask hides do not count, and change neither ranges nor anything else that calibration finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kopt.frontend.load import load
from kopt.ir.graph import Graph
from kopt.passes.quantize.plan import plan
from kopt.quantization.relevance import relevance
from support.graphs import model

POOLED = """m (float[N,5,4] x, float[N,5] keep) => (float[N,3] y)
    <int64[1] last = {2}, int64[1] second = {1}, float[4,6] w0 = {0}, float[6,3] w1 = {0}> {
        h = MatMul(x, w0)
        r = Tanh(h)
        z = MatMul(r, w1)
        k = Unsqueeze(keep, last)
        seen = Mul(z, k)
        y = ReduceSum<keepdims=0>(seen, second)
}"""


def pooled(rng: np.random.Generator, text: str = POOLED) -> Graph:
    proto = model(text)
    for held in proto.graph.initializer:
        if held.name.startswith("w"):
            held.CopyFrom(onnx.numpy_helper.from_array(rng.standard_normal(tuple(held.dims)).astype(np.float32), held.name))
    return load(proto)


def test_rows_behind_a_mask_do_not_count(rng: np.random.Generator) -> None:
    graph = pooled(rng)
    keep = np.float32([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    feed = {"x": rng.standard_normal((3, 5, 4)).astype(np.float32), "keep": keep}
    found = relevance(graph, plan(graph), [feed, {name: array[:1] for name, array in feed.items()}])
    wanted = keep.astype(bool)
    wanted[2] = True  # a sample without any influence counts whole
    for name in ("x", "r"):
        np.testing.assert_array_equal(found.rows[0][name], wanted)
        np.testing.assert_array_equal(found.rows[1][name], wanted[:1])
    x = graph.inputs[0]
    np.testing.assert_array_equal(found.kept(0, x, feed["x"]), feed["x"][wanted])
    assert found.share(1, x) == pytest.approx(0.6)
    assert not found.zeroed(0, x, feed["x"])[~wanted].any()
