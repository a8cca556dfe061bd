"""Models that importers stumble over, on several data sets each, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

import kopt.onnx_backend as backend

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "ai.onnx.ml" : 4, "local" : 1]>\n'
F32, I64 = np.float32, np.int64


def _ramp(*shape: int) -> np.ndarray:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=F32).reshape(shape)


def _i64(*values: int) -> np.ndarray:
    return np.asarray(values, I64)


def _scalar(value: object, dtype: type = I64) -> np.ndarray:
    return np.asarray(value, dtype)


MODELS: dict[str, tuple[str, list[list[np.ndarray]]]] = {
    "symbolic batch": ("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }", [[_ramp(1, 4)], [_ramp(3, 4)]]),
    "shape chain": (
        """g (float[N, 4, 2] x) => (float[N, K] y) {
            s = Shape(x)  zero = Constant<value_ints = [0]>()  n = Gather(s, zero)
            minus = Constant<value_ints = [-1]>()  shape = Concat<axis = 0>(n, minus)  y = Reshape(x, shape) }""",
        [[_ramp(1, 4, 2)], [_ramp(3, 4, 2)]],
    ),
    "reshape to a run-time shape": (
        "g (float[6] x, int64[2] s) => (float[A, B] y) { y = Reshape(x, s) }",
        [[_ramp(6), _i64(2, 3)], [_ramp(6), _i64(6, -1)]],
    ),
    "run-time slice": (
        "g (float[6] x, int64[1] a, int64[1] b) => (float[K] y) { y = Slice(x, a, b) }",
        [[_ramp(6), _i64(1), _i64(4)], [_ramp(6), _i64(-2), _i64(99)]],
    ),
    "NonZero": ("g (float[N] x) => (int64[1, K] y) { y = NonZero(x) }", [[np.array([0, 1, 0, 2], F32)], [np.zeros(3, F32)]]),
    "run-time k": (
        "g (float[5] x, int64[1] k) => (float[K] v, int64[K] i) { v, i = TopK(x, k) }",
        [[_ramp(5), _i64(2)], [_ramp(5), _i64(5)], [_ramp(5), _i64(0)]],
    ),
    "unknown rank": ("g (float[] x) => (float[] y) { y = Neg(x) }", [[_ramp(2)], [_ramp(2, 3, 1)], [_scalar(1.5, F32)]]),
    "constant If": (
        """g (float[2] x) => (float[2] y) { c = Constant<value = bool[1] {1}>()
            y = If (c) <then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] b) { b = Abs(x) }> }""",
        [[_ramp(2)]],
    ),
    "run-time If": (
        """g (float[2] x, bool c) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] b) { b = Abs(x) }> }""",
        [[_ramp(2), _scalar(1, bool)], [_ramp(2), _scalar(0, bool)]],
    ),
    "If whose shapes differ": (
        """g (float[2, 3] x, bool c) => (float[A, B] y) {
            y = If (c) <then_branch = t () => (float[3, 2] a) { a = Transpose(x) },
                        else_branch = e () => (float[2, 3] b) { b = Abs(x) }> }""",
        [[_ramp(2, 3), _scalar(1, bool)], [_ramp(2, 3), _scalar(0, bool)]],
    ),
    "Loop of constant trips": (
        """g (float[2] x) => (float[2] y, float[K, 2] rows) { n = Constant<value_int = 3>()  c = Constant<value = bool {1}>()
            y, rows = Loop (n, c, x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t, float[2] row)
                { on = Identity(go)  t = Add(s, s)  row = Neg(t) }> }""",
        [[_ramp(2)]],
    ),
    "Loop of run-time trips": (
        """g (float[2] x, int64 n) => (float[2] y, float[K, 2] rows) { c = Constant<value = bool {1}>()
            y, rows = Loop (n, c, x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t, float[2] row)
                { on = Identity(go)  t = Add(s, s)  row = Neg(t) }> }""",
        [[_ramp(2), _scalar(4)], [_ramp(2), _scalar(1)], [_ramp(2), _scalar(0)]],
    ),
    "Loop that ends by its condition and stacks": (
        """g (float[2] x, float limit) => (float[2] y, float[K, 2] rows) { n = Constant<value_int = 20>()  c = Constant<value = bool {1}>()
            y, rows = Loop (n, c, x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t, float[2] row)
                { t = Add(s, s)  row = Neg(t)  top = ReduceMax<keepdims = 0>(t)  on = Less(top, limit) }> }""",
        [[np.array([1, 2], F32), _scalar(100, F32)], [np.array([1, 2], F32), _scalar(5, F32)]],
    ),
    "Loop over slices of run-time size": (
        """g (float[6] x, int64 n) => (float[K] y) { c = Constant<value = bool {1}>()  one = Constant<value_ints = [1]>()
            zero = Constant<value_ints = [0]>()  start = Slice(x, zero, one)
            y = Loop (n, c, start) <body = b (int64 i, bool go, float[M] s) => (bool on, float[L] t)
                { on = Identity(go)  end = Add(one, i)  part = Slice(x, zero, end)  t = Concat<axis = 0>(s, part) }> }""",
        [[_ramp(6), _scalar(3)], [_ramp(6), _scalar(1)]],
    ),
    "Scan": (
        """g (float[2] s, float[N, 2] x) => (float[2] y, float[N, 2] rows) {
            y, rows = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] r) => (float[2] c, float[2] d)
                { c = Add(a, r)  d = Identity(c) }> (s, x) }""",
        [[_ramp(2), _ramp(3, 2)], [_ramp(2), _ramp(1, 2)]],
    ),
    "sequence inside": (
        """g (float[N, 2] x, float[M, 2] z) => (float[K, 2] y) { s = SequenceConstruct(x, z)  y = ConcatFromSequence<axis = 0>(s) }""",
        [[_ramp(1, 2), _ramp(3, 2)], [_ramp(2, 2), _ramp(2, 2)]],
    ),
    "com.microsoft Gelu": ("g (float[N] x) => (float[N] y) { y = com.microsoft.Gelu(x) }", [[_ramp(4)]]),
    "shape from a count": (
        """g (float[N] x) => (float[K] y) { w = NonZero(x)  s = Shape(w)  one = Constant<value_ints = [1]>()  n = Gather(s, one)
            y = ConstantOfShape<value = float[1] {2.5}>(n) }""",
        [[np.array([0, 1, 3], F32)], [np.array([1, 1, 3, 4], F32)], [np.zeros(2, F32)]],
    ),
    "range to a computed limit": (
        """g (int64[N] x) => (int64[K] y) { zero = Constant<value_int = 0>()  one = Constant<value_int = 1>()
            top = ReduceMax<keepdims = 0>(x)  y = Range(zero, top, one) }""",
        [[_i64(1, 4, 2)], [_i64(2)]],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_behaviour(name: str) -> None:
    text, data = MODELS[name]
    model = parser.parse_model(HEAD + text)
    prepared = backend.prepare(model)
    reference = onnxruntime.InferenceSession(model.SerializeToString())
    for arrays in data:
        expected = reference.run(None, dict(zip((info.name for info in model.graph.input), arrays, strict=True)))
        for found, wanted in zip(prepared.run(arrays), expected, strict=True):
            assert found.dtype == wanted.dtype
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_local_function() -> None:
    function = '<domain: "local", opset_import: ["" : 21]> twice (a) => (b) { b = Add(a, a) }'
    text = f"{HEAD}g (float[N] x) => (float[N] y) {{ y = local.twice(x) }}\n{function}"
    np.testing.assert_array_equal(backend.run_model(parser.parse_model(text), [_ramp(3)])[0], _ramp(3) * 2)


def test_add_of_opset_6_broadcasts_from_an_axis() -> None:
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"], broadcast=1, axis=0)
    found = backend.run_node(node, [_ramp(2, 3), _ramp(2)], opset_version=6)[0]
    np.testing.assert_array_equal(found, _ramp(2, 3) + _ramp(2)[:, None])


def test_strings_become_labels() -> None:
    text = HEAD + 'g (string[N] x) => (int64[N] y) { y = ai.onnx.ml.LabelEncoder<keys_strings = ["a", "b"], values_int64s = [7, 8]>(x) }'
    found = backend.run_model(parser.parse_model(text), [np.array(["b", "?", "a"], object)])[0]
    assert found.tolist() == [8, -1, 7]
