"""Quantized files, kopt's own and others', become integer operators with the same results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from kopt.frontend.load import load
from kopt.hardware import Target
from kopt.ir.graph import Graph
from kopt.passes.quantize.numbers import snr_db
from kopt.specialize import Recipe, specialize
from support.graphs import graph, model

CPU = Target.parse("cpu")


def compiled(one: Graph, x: np.ndarray) -> tuple[Counter[str], np.ndarray]:
    """Operators after the passes, and the result."""
    done = specialize(one, Recipe.of_preset("xla"), CPU, shapes={"x": x.shape})
    return Counter(node.op for node in done.lowered.graph.nodes), np.asarray(done.compile()([x])[0])


class Feeds(CalibrationDataReader):
    """Twenty random inputs."""

    def __init__(self, rng: np.random.Generator, *shape: int) -> None:
        self.feeds = iter([{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(20)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def network(rng: np.random.Generator, path: Path) -> None:
    """Convolutions with a sum, pooling and a product, as an .onnx file."""
    proto = model(
        """m (float[N,3,9,9] x) => (float[N,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w0, b0)
            b = Relu(a)
            c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
            d = Conv<pads=[1,1,1,1]>(c, w1, b1)
            e = Add(d, c)
            f = Relu(e)
            g = GlobalAveragePool(f)
            h = Flatten(g)
            y = Gemm<transB=1>(h, w2, b2)
        }"""
    )
    for name, shape in {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 8, 3, 3), "b1": (8,), "w2": (5, 8), "b2": (5,)}.items():
        array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, path)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("kind", [QuantType.QUInt8, QuantType.QInt8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_files_of_onnxruntime(rng: np.random.Generator, tmp_path: Path, form: QuantFormat, kind: QuantType, per_channel: bool) -> None:
    network(rng, tmp_path / "m.onnx")
    settings = {"quant_format": form, "activation_type": kind, "weight_type": QuantType.QInt8, "per_channel": per_channel}
    quantize_static(str(tmp_path / "m.onnx"), str(tmp_path / "q.onnx"), Feeds(rng, 2, 3, 9, 9), **settings)
    x = rng.standard_normal((3, 3, 9, 9)).astype(np.float32)
    expected = ort.InferenceSession(str(tmp_path / "q.onnx"), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    ops, found = compiled(load(tmp_path / "q.onnx"), x)
    assert ops["Int8ConvNhwc"] == 2
    assert ops["Int8Product"] == 1
    assert not {"ConvNhwc", "QLinearConv", "Gemm"} & set(ops)
    assert snr_db(expected, found) > 35


def test_dynamically_quantized_files(rng: np.random.Generator, tmp_path: Path) -> None:
    proto = model("m (float[N,12] x) => (float[N,5] y) { h = MatMul(x, w0)  i = Relu(h)  j = MatMul(i, w1)  y = Add(j, b) }")
    for name, shape in {"w0": (12, 16), "w1": (16, 5), "b": (5,)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    onnx.save(proto, tmp_path / "m.onnx")
    quantize_dynamic(str(tmp_path / "m.onnx"), str(tmp_path / "q.onnx"), per_channel=True, weight_type=QuantType.QInt8)
    x = rng.standard_normal((7, 12)).astype(np.float32)
    expected = ort.InferenceSession(str(tmp_path / "q.onnx"), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    ops, found = compiled(load(tmp_path / "q.onnx"), x)
    assert ops["Int8Product"] == 2
    assert "MatMulInteger" not in ops
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


HEAD = "float s = {0.05}, float ws = {0.02}, float t = {0.1}, uint8 z = {120}, uint8 zero = {0}"


@pytest.mark.parametrize(
    ("body", "op"),
    [
        ("y = MatMul(d, e)", "Int8Product"),
        ("h = MatMul(d, e)  y = Gelu(h)", "Int8Product"),
        ("h = MatMul(d, e)  i = Relu(h)  q2 = QuantizeLinear(i, t, zero)  y = DequantizeLinear(q2, t, zero)", "Int8Product"),
        ("h = MatMul(d, e)  q2 = QuantizeLinear(h, t, zero)  d2 = DequantizeLinear(q2, t, zero)  y = Add(d2, d)", "Int8Product"),
        ("h = MatMul(d, e)  i = Add(h, d)  y = Tanh(i)", "Int8Product"),
        ("h = MatMul(d, e)  i = Add(h, h)  y = Relu(i)", "Int8Product"),
        ("h = MatMul(d, e)  i = Add(h, c)  y = Relu(i)", "Int8Product"),
        ("h = MatMul(d, e)  i = Relu(h)  y = Add(i, h)", "Int8Product"),
        ("h = MatMul(d, e)  i = Clip(h, lo, hi)  y = Softmax(i)", "Int8Product"),
        ("y = MatMul(e, d)", "MatMul"),
    ],
)
def test_what_follows_a_layer(rng: np.random.Generator, body: str, op: str) -> None:
    values = ",".join(map(str, rng.integers(-127, 128, 16)))
    held = f"int8[4,4] w = {{{values}}}, float[4] c = {{1,2,3,4}}, float lo = {{-0.5}}, float hi = {{0.25}}, {HEAD}"
    inputs = "q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  e = DequantizeLinear(w, ws)"
    one = graph(f"m (float[4,4] x) => (float[4,4] y) <{held}> {{ {inputs}  {body} }}")
    x = rng.standard_normal((4, 4)).astype(np.float32)
    expected = np.asarray(specialize(one, Recipe(), CPU, shapes={"x": x.shape}).compile()([x])[0])
    ops, found = compiled(one, x)
    assert ops[op] == 1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 if "QuantizeLinear(h" not in body and "t, zero" not in body else 0.11)
