"""Static quantization writes files that ONNX Runtime runs with the accuracy of 8 bits."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from kopt.frontend.export import to_model
from kopt.ir.graph import Graph
from kopt.passes.base import PassContext
from kopt.passes.quantize.numbers import affine, fake, quantize_bias, quantize_weight, snr_db, weight_scales
from kopt.passes.quantize.plan import plan
from kopt.passes.quantize.static import QuantizeStatic
from support.graphs import graph


def run(one: Graph, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(to_model(one).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def weights(rng: np.random.Generator, *shape: int) -> str:
    array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return f"float[{','.join(map(str, shape))}] {{{','.join(f'{one:.5f}' for one in array.ravel())}}}"


def residual(rng: np.random.Generator) -> Graph:
    def constant(name: str, *shape: int) -> str:
        kind, values = weights(rng, *shape).split("] ", 1)
        return f"{kind}] {name} = {values}"

    held = ", ".join([constant("w0", 8, 3, 3, 3), constant("b0", 8), constant("w1", 8, 8, 3, 3), constant("w2", 5, 8), constant("b2", 5)])
    return graph(
        f"""m (float[N,3,9,9] x) => (float[N,5] y) <{held}> {{
            a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w0, b0)
            b = Relu(a)
            c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
            d = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(c, w1)
            e = Add(d, c)
            f = Relu(e)
            g = GlobalAveragePool(f)
            h = Flatten(g)
            y = Gemm<transB=1>(h, w2, b2)
        }}"""
    )


def ranges(one: Graph, x: np.ndarray) -> dict[str, tuple[float, float]]:
    values = list(plan(one).groups)
    inside = [value for value in values if value not in one.inputs]
    model = to_model(one.replace(outputs=tuple(inside)))
    found = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    limits = {value.name: (float(array.min()), float(array.max())) for value, array in zip(inside, found, strict=True)}
    return limits | {"x": (float(x.min()), float(x.max()))}


def test_a_residual_network(rng: np.random.Generator) -> None:
    one, x = residual(rng), rng.standard_normal((4, 3, 9, 9)).astype(np.float32)
    ctx = PassContext()
    changed = QuantizeStatic(ranges(one, x)).run(one, ctx)
    changed.verify()
    assert ctx.rewrites == {"Conv in 8 bits": 2, "Gemm in 8 bits": 1}
    assert snr_db(run(one, x), run(changed, x)) > 30
    assert [value.name for value in changed.outputs] == ["y"]
    assert QuantizeStatic(ranges(one, x)).run(changed, PassContext()) is changed


def test_values_stay_in_8_bits_between_layers(rng: np.random.Generator) -> None:
    found = plan(residual(rng))
    assert {value.name for value in found.groups} == {"x", "b", "c", "d", "f", "g", "h"}
    roots = {value.name: found.root(value).name for value in found.groups}
    assert roots["b"] == roots["c"]
    assert roots["g"] == roots["h"]
    assert roots["d"] == "d"


def test_layers_that_are_kept_or_unseen(rng: np.random.Generator) -> None:
    one, x = residual(rng), rng.standard_normal((2, 3, 9, 9)).astype(np.float32)
    assert QuantizeStatic(ranges(one, x), keep=("Conv", "Gemm")).run(one, PassContext()) is one
    ctx = PassContext()
    assert QuantizeStatic({}).run(one, ctx) is one
    assert "no range" in ctx.skips[0][2]


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-1, 1), (2, 3), (-5, -4), (0, 0), (-1e-3, 1e4)])
def test_zero_is_exact_and_the_limits_are_inside(low: float, high: float) -> None:
    chosen = affine(low, high)
    x = np.linspace(min(low, 0), max(high, 0), 101, dtype=np.float32)
    assert fake(np.zeros(1, np.float32), chosen) == 0
    assert np.abs(fake(x, chosen) - x).max() <= chosen.scale * 1.001


def test_weights_and_biases(rng: np.random.Generator) -> None:
    w = rng.standard_normal((4, 3)).astype(np.float32)
    w[2] = 0
    scale = weight_scales(w, 0)
    q = quantize_weight(w, scale, 0)
    assert q.dtype == np.int8
    assert (np.abs(q[[0, 1, 3]]).max(axis=1) == 127).all()
    assert scale[2] == 1
    np.testing.assert_allclose(q * scale[:, None], w, atol=scale.max() / 2 * 1.001)
    np.testing.assert_array_equal(quantize_bias(np.float32([1, -2]), np.float32([0.5, 0.25])), [2, -8])
    assert quantize_bias(np.float32([1e10]), np.float32([1e-3])) is None


def test_what_a_product_loses_on_average_goes_into_the_sum_behind_it() -> None:
    one = graph(
        """m (float[N,2,3] x) => (float[N,2,2] y, float[N,2,2] z)
            <float[3,2] w = {1, 2, 3, 4, 5, 6}, float[1,2] b = {1, 2}, float[2] v = {3, 4}> {
            h = MatMul(x, w)
            y = Add(b, h)
            k = MatMul(x, w)
            z = Mul(k, v)
        }"""
    )
    names = {node.outputs[0].name: node.name for node in one.nodes if node.op == "MatMul"}
    shifts = {names["h"]: np.float32([0.25, -0.5]), names["k"]: np.float32([1, 1])}
    made = QuantizeStatic({"x": (-1.0, 1.0)}, shifts=shifts).run(one, PassContext())
    plain = QuantizeStatic({"x": (-1.0, 1.0)}).run(one, PassContext())
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_allclose(run(made, x) - run(plain, x), np.broadcast_to(np.float32([0.25, -0.5]), (2, 2, 2)), atol=1e-5)
    assert [node.op for node in made.nodes].count("Add") == 1, "where there is no sum behind a product none is added"
