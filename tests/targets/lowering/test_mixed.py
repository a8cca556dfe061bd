import jax
import ml_dtypes
import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.targets.lowering.walk import load_lowerings, run_graph

NARROW = {"bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}


def lower(op, arrays, dtype, options=None, **attrs):
    """The node's output by XLA; the first two arrays are narrowed, and returned as f32 for the expectation."""
    load_lowerings()
    narrowed = [array.astype(NARROW[dtype]) if k < 2 else array for k, array in enumerate(arrays)]
    b = Builder()
    values = [b.input(f"i{k}", dtype if k < 2 else "f32", array.shape) for k, array in enumerate(narrowed)]
    graph = b.graph("g", values, [b.emit(op, *values, domain="com.kopt", attrs=attrs)])
    with jax.enable_x64(True):
        (y,) = jax.jit(lambda *given: run_graph(graph, given, options=options))(*narrowed)
    y = np.asarray(y)
    assert y.dtype == (NARROW[dtype] if attrs.get("narrow_result") else np.float32)
    assert y.shape == graph.outputs[0].shape
    return y.astype(np.float32), [array.astype(np.float32) for array in narrowed]


def floats(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 7), (7, 3)),
        ((2, 5, 7), (7, 3)),
        ((2, 3, 5, 7), (3, 7, 4)),
        ((7,), (7, 3)),
        ((4, 7), (7,)),
        ((7,), (7,)),
        ((0, 7), (7, 3)),
        ((3, 0), (0, 2)),
    ],
)
def test_matmul(dtype, a, b):
    y, (left, right) = lower("MatMulMixed", [floats(*a), floats(*b)], dtype)
    np.testing.assert_allclose(y, np.matmul(left, right), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(("trans_a", "trans_b", "alpha", "beta"), [(0, 1, 1.0, 1.0), (1, 0, 0.5, 1.0), (1, 1, 1.5, -2.0)])
@pytest.mark.parametrize("bias", [None, (3,), (5, 1), (1,)])
def test_gemm(dtype, trans_a, trans_b, alpha, beta, bias):
    arrays = [floats(*((7, 5) if trans_a else (5, 7))), floats(*((3, 7) if trans_b else (7, 3)))]
    arrays += [floats(*bias)] if bias else []
    y, (a, b, *c) = lower("GemmMixed", arrays, dtype, transA=trans_a, transB=trans_b, alpha=alpha, beta=beta)
    expected = alpha * ((a.T if trans_a else a) @ (b.T if trans_b else b)) + (beta * c[0] if c else 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_sums_are_kept_in_f32():
    # In bf16 the sum would stay at 256: adding 1 to it is lost.
    y, _ = lower("MatMulMixed", [np.ones((1, 4096), np.float32), np.ones((4096, 1), np.float32)], "bf16")
    assert y.item() == 4096


def test_not_a_number_passes_through():
    a = floats(3, 4)
    a[1, 2] = np.nan
    y, _ = lower("MatMulMixed", [a, floats(4, 2)], "bf16")
    np.testing.assert_array_equal(np.isnan(y), [[False] * 2, [True] * 2, [False] * 2])


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("x", "w", "strides", "pads", "group"),
    [
        ((2, 5, 7, 6), (4, 6, 1, 1), (1, 1), (0, 0, 0, 0), 1),
        ((1, 5, 7, 6), (4, 6, 1, 1), (2, 2), (0, 0, 0, 0), 1),
        ((2, 9, 8, 3), (5, 3, 4, 4), (4, 4), (0, 0, 0, 0), 1),
        ((2, 5, 6, 8), (3, 8, 3, 3), (1, 1), (1, 1, 1, 1), 1),
        ((2, 20, 6, 8), (3, 8, 3, 3), (2, 1), (1, 0, 1, 1), 1),
        ((1, 6, 5, 4), (6, 2, 3, 2), (1, 2), (1, 0, 0, 1), 2),
        ((0, 5, 5, 4), (3, 4, 3, 3), (1, 1), (1, 1, 1, 1), 1),
    ],
)
def test_convolution(dtype, device, x, w, strides, pads, group):
    attrs = {"kernel_shape": w[2:], "strides": strides, "pads": pads, "group": group, "dilations": (1, 1), "auto_pad": "NOTSET"}
    y, (image, kernel, bias) = lower("ConvNhwcMixed", [floats(*x), floats(*w), floats(w[0])], dtype, {"device": device}, **attrs)
    np.testing.assert_allclose(y, convolved(image, kernel, strides, pads, group) + bias, rtol=1e-4, atol=1e-4)


def convolved(x, w, strides, pads, group):
    """Channels-last convolution by patches in numpy."""
    padded = np.pad(x, [(0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], (1, 2))[:, :: strides[0], :: strides[1]]
    size, out = x.shape[3] // group, w.shape[0] // group
    parts = [
        np.einsum("nhwcij,mcij->nhwm", windows[..., k * size : (k + 1) * size, :, :], w[k * out : (k + 1) * out]) for k in range(group)
    ]
    return np.concatenate(parts, -1)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("narrow_result", [0, 1])
@pytest.mark.parametrize("turned", [0, 1])
def test_products_with_what_follows(dtype, narrow_result, turned):
    x, w, bias, residual = floats(2, 5, 7), floats(7, 3), floats(3), floats(2, 5, 3)
    attrs = {"transB": turned, "activation": "Relu", "narrow_result": narrow_result}
    y, (left, right, *_) = lower("ProductMixed", [x, w.T.copy() if turned else w, bias, residual], dtype, **attrs)
    expected = np.maximum(left @ (right.T if turned else right) + bias + residual, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-2 if narrow_result else 1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", NARROW)
def test_convolutions_with_what_follows(dtype):
    x, w, bias, residual = floats(2, 6, 5, 4), floats(3, 4, 3, 3), floats(3), floats(2, 6, 5, 3)
    attrs = {"pads": (1,) * 4, "strides": (1, 1), "dilations": (1, 1), "group": 1, "kernel_shape": (3, 3)}
    plain, _ = lower("ConvNhwcMixed", [x, w], dtype, **attrs)
    y, _ = lower("FusedConvNhwcMixed", [x, w, bias, residual], dtype, **attrs, activation="Tanh")
    np.testing.assert_allclose(y, np.tanh(plain + bias + residual), rtol=1e-5, atol=1e-5)
