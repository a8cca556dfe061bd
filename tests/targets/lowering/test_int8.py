"""Integer products and convolutions in plain XLA against exact numpy."""

import numpy as np
import pytest

from kopt.hardware import Target
from kopt.ir.builder import Builder
from kopt.targets.xla import XlaBackend
from support.int8 import Case, check, drawn, node

PRODUCTS = {
    "odd": Case((7, 33), (33, 19)),
    "batched": Case((2, 3, 5, 8), (8, 17), "i8", "i8", "f32"),
    "row": Case((1, 130), (130, 40), "u8", "u8", "u8", "Relu"),
    "exact_u8": Case((5, 64), (64, 16), "u8", "u8", "i8", "Relu", exact=True),
    "exact_i8": Case((5, 63), (63, 16), "i8", "i8", "", exact=True),
    "no_zero_points": Case((9, 12), (12, 9), "u8", "u8", zero=None),
    "extremes": Case((9, 12), (12, 9), "i8", "i8", "i8", zero=(-128, 127, -128)),
    "highest": Case((9, 12), (12, 9), "u8", "u8", "u8", zero=(255, 255, 255)),
    "long": Case((3, 4099), (4099, 5), "u8", "f32", zero=(128, 0, 0)),
    "gelu": Case((4, 16), (16, 8), "u8", "i8", "", "Gelu"),
    "clip": Case((4, 16), (16, 8), "i8", "f32", "", "Clip", (-0.5, 0.75)),
    "bare": Case((4, 16), (16, 8), bias=False),
    "empty": Case((0, 16), (16, 8), "u8", "u8"),
}
SAME = {"pads": (1, 1, 1, 1)}
CONVOLUTIONS = {
    "stem": Case((1, 15, 13, 3), (8, 3, 7, 7), "u8", "u8", "", "Relu", window={"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    "same": Case((2, 9, 8, 5), (7, 5, 3, 3), "i8", "i8", "i8", "Relu", window=SAME),
    "exact": Case((2, 9, 8, 16), (16, 16, 3, 3), "u8", "u8", "u8", "Relu", window=SAME, exact=True),
    "floats": Case((1, 6, 7, 4), (5, 4, 3, 2), "u8", "f32", "f32", "Clip", window={"pads": (0, 1, 1, 0), "dilations": (2, 1)}),
    "pointwise": Case((2, 4, 5, 12), (9, 12, 1, 1), "u8", "u8", zero=(255, 0, 255)),
    "strided": Case((1, 8, 9, 8), (4, 8, 1, 1), "i8", "u8", window={"strides": (2, 3)}),
    "depthwise": Case((2, 9, 8, 10), (10, 1, 3, 3), "u8", "u8", "u8", "Relu", window={**SAME, "group": 10}),
    "multiplied": Case((1, 6, 6, 4), (8, 1, 3, 3), "i8", "i8", window={"group": 4}),
    "grouped": Case((1, 6, 6, 8), (6, 4, 3, 3), "u8", "f32", window={**SAME, "group": 2}),
    "sequence": Case((2, 11, 6), (4, 6, 3), "u8", "u8", window={"pads": (1, 1), "strides": (2,), "dilations": (1,)}),
    "volume": Case(
        (1, 4, 5, 6, 3), (4, 3, 2, 2, 2), "u8", "i8", window={"pads": (1, 0, 0, 0, 1, 0), "strides": (1,) * 3, "dilations": (1,) * 3}
    ),
}
CASES = {**PRODUCTS, **CONVOLUTIONS}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "kernels"])
def results(request):
    """Every case in one graph, compiled once: in plain XLA, and with kernels where this processor has the instructions."""
    rng, b, inputs, arrays, outputs = np.random.default_rng(5), Builder(), [], [], []
    given = {name: drawn(case, rng) for name, case in CASES.items()}
    for name, case in CASES.items():
        y, more, values = node(b, case, given[name])
        outputs.append(y)
        inputs += more
        arrays += values
    backend = XlaBackend()
    lowered = backend.lower(b.graph("integers", inputs, outputs), Target.parse("cpu"), {"kernels": request.param})
    executable = backend.compile(lowered)
    return given, dict(zip(CASES, executable(arrays), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_exact_arithmetic(results, name):
    check(CASES[name], results[0][name], np.asarray(results[1][name]))


def test_scales_may_be_computed():
    """Dynamic quantization gives scales and zero points while the program runs."""
    b, rng = Builder(), np.random.default_rng(2)
    w, scale = rng.integers(-127, 127, (21, 9)).astype(np.int8), np.float32(0.01)
    xs, zero = b.input("s", "f32", ()), b.input("z", "u8", ())
    q = b.input("q", "u8", (6, 21))
    y = b.emit("Int8Product", q, b.constant(w), xs, zero, b.constant(scale), domain="com.kopt", attrs={"activation": ""})
    backend = XlaBackend()
    executable = backend.compile(backend.lower(b.graph("dynamic", [q, xs, zero], [y]), Target.parse("cpu")))
    integers = rng.integers(0, 255, (6, 21)).astype(np.uint8)
    for given_zero in (0, 17, 255):
        got = np.asarray(executable([integers, np.float32(0.5), np.uint8(given_zero)])[0])
        expected = ((integers.astype(np.int64) - given_zero) @ w.astype(np.int64)).astype(np.float32) * (np.float32(0.5) * scale)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
