"""Smoothing changes no numbers, but those of 8 bits; masks are clamped without a trace in the output."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kopt.frontend.load import load
from kopt.ir.graph import Graph
from kopt.passes.base import PassContext
from kopt.passes.quantize.masks import ClampMasks
from kopt.passes.quantize.smooth import SmoothFeatures
from support.equivalence import run_graph
from support.graphs import graph, model


@pytest.fixture
def one(rng: np.random.Generator) -> Graph:
    proto = model(
        """m (float[N,6] x) => (float[N,4] y, float[N,4] z) {
            a = Gemm(x, w0, b0)
            n = LayerNormalization<axis=-1>(a, gamma, beta)
            y = MatMul(n, w1)
            r = Relu(a)
            z = MatMul(r, w2)
        }"""
    )
    for name, shape in {"w0": (6, 8), "b0": (8,), "gamma": (8,), "beta": (8,), "w1": (8, 4), "w2": (8, 4)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return load(proto)


def test_smoothing_keeps_the_numbers(rng: np.random.Generator, one: Graph) -> None:
    peaks = {"x": np.float32([1e-2, 0, 1, 30, 2500, 5]), "n": np.float32([1, 2, 3, 4, 50, 6, 7, 8]), "r": np.arange(1, 9, dtype=np.float32)}
    ctx = PassContext()
    changed = SmoothFeatures(peaks, {"n": 0.5, "r": 0.7}).run(one, ctx)
    changed.verify()
    assert ctx.rewrites == {"smoothed": 3}
    assert [node.op for node in changed.nodes].count("Mul") == 2, "what LayerNormalization makes is smoothed in its weights"
    x = {"x": (rng.standard_normal((5, 6)) * peaks["x"]).astype(np.float32)}
    for a, b in zip(run_graph(one, x), run_graph(changed, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_what_needs_no_smoothing_stays(one: Graph) -> None:
    even = {"x": np.ones(6, np.float32), "n": np.ones(8, np.float32)}
    assert SmoothFeatures(even).run(one, PassContext()) is one
    assert SmoothFeatures({"x": np.float32([1, 1, 1, 1, 1, 100])}, keep=("Gemm", "MatMul")).run(one, PassContext()) is one
    assert SmoothFeatures({}).run(one, PassContext()) is one


MASKED = """m (float[2,4] s, float[2,4] keep) => (float[2,4] y) <float low = {-3.4e38}, float one = {1}> {
    away = Sub(one, keep)
    mask = Mul(away, low)
    sum = Add(s, mask)
    y = Softmax(sum)
}"""


def test_masks_are_clamped(rng: np.random.Generator) -> None:
    one, ctx = graph(MASKED), PassContext()
    changed = ClampMasks().run(one, ctx)
    assert ctx.rewrites == {"mask clamped": 1}
    feeds = {"s": rng.standard_normal((2, 4)).astype(np.float32), "keep": np.float32([[1, 1, 0, 1], [1, 0, 0, 0]])}
    np.testing.assert_array_equal(run_graph(one, feeds)[0], run_graph(changed, feeds)[0])
    assert ClampMasks().run(changed, PassContext()) is changed


@pytest.mark.parametrize("text", [MASKED.replace("Softmax", "Relu"), MASKED.replace("Mul(away", "Max(away")])
def test_constants_that_are_no_masks_stay(text: str) -> None:
    one = graph(text)
    assert ClampMasks().run(one, PassContext()) is one
