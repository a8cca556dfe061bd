"""Nodes through kernels and through plain XLA give the same, for whatever attributes a node may have."""

import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.types import DType
from kopt.targets.xla import XlaBackend
from support.kernels import NATIVE

KOPT = "com.kopt"

# input (N, H, W, C), outputs, group, kernel, attributes
CONVOLUTIONS = {
    "same_upper": ((2, 11, 9, 16), 32, 1, (3, 3), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    "same_lower": ((1, 10, 12, 24), 48, 1, (4, 5), {"auto_pad": "SAME_LOWER", "strides": (1, 3)}),
    "valid": ((1, 9, 9, 16), 17, 1, (3, 3), {"auto_pad": "VALID"}),
    "uneven": ((2, 9, 8, 16), 33, 1, (3, 2), {"pads": (0, 2, 1, 0), "dilations": (2, 1)}),
    "three_by_three": ((2, 13, 12, 40), 64, 1, (3, 3), {"pads": (1, 1, 1, 1)}),
    "pointwise": ((2, 9, 8, 40), 48, 1, (1, 1), {}),
    "pointwise_strided": ((2, 9, 8, 40), 48, 1, (1, 1), {"strides": (2, 3)}),
    "pointwise_padded": ((1, 9, 8, 40), 48, 1, (1, 1), {"pads": (0, 1, 0, 0)}),
    "depthwise": ((2, 9, 8, 40), 40, 40, (3, 3), {"pads": (1, 1, 1, 1)}),
    "depthwise_same": ((1, 12, 9, 33), 33, 33, (5, 4), {"auto_pad": "SAME_UPPER", "strides": (2, 1)}),
    "depthwise_dilated": ((1, 12, 9, 16), 16, 16, (3, 3), {"dilations": (2, 3), "pads": (2, 3, 2, 3)}),
    "multiplied": ((1, 6, 6, 16), 32, 16, (3, 3), {}),
    "grouped": ((1, 6, 6, 32), 32, 2, (3, 3), {}),
    "few_outputs": ((1, 6, 6, 16), 3, 1, (3, 3), {}),
    "one_channel": ((1, 12, 12, 1), 16, 1, (3, 3), {"pads": (1, 1, 1, 1)}),
    "sequence": ((2, 30, 16), 32, 1, (3,), {"pads": (1, 1)}),
}
PLAIN = {"multiplied", "grouped", "few_outputs", "sequence"}
EPILOGUES = [("", None), ("Relu", None), ("Clip", (0.0, 6.0)), ("Gelu", None), ("Tanh", None), ("Sigmoid", None), ("GeluTanh", None)]


def fused(b, inputs, rng, name, activation, params):
    """A FusedConvNhwc with a bias and a residual."""
    shape, outputs, group, kernel, attrs = CONVOLUTIONS[name]
    x = b.input(f"{name}_x", "f32", shape)
    w = b.constant(rng.standard_normal((outputs, shape[-1] // group, *kernel)).astype(np.float32) / 8)
    rank = len(kernel)
    window = {"kernel_shape": kernel, "strides": (1,) * rank, "dilations": (1,) * rank, "group": group, "pads": (0,) * 2 * rank}
    if "auto_pad" in attrs:
        del window["pads"]
    settings = {**window, **attrs, "activation": activation} | ({"activation_params": params} if params else {})
    bias = b.constant(rng.standard_normal(outputs).astype(np.float32))
    kind = b.emit("ConvNhwc", x, w, domain=KOPT, attrs={**window, **attrs}).type  # its type alone
    b.nodes.pop()
    added = b.input(f"{name}_r", "f32", kind.shape)
    inputs += [x, added]
    return b.emit_many("FusedConvNhwc", x, w, bias, added, domain=KOPT, attrs=settings, types=[kind], hint=name)[0]


@pytest.fixture(scope="module")
def graph():
    b, rng, inputs = Builder(), np.random.default_rng(3), []
    outputs = [fused(b, inputs, rng, name, *EPILOGUES[k % len(EPILOGUES)]) for k, name in enumerate(CONVOLUTIONS)]
    return b.graph("convolutions", inputs, outputs)


def run(graph, feeds, **options):
    backend = XlaBackend()
    lowered = backend.lower(graph, NATIVE, options)
    return lowered, [np.asarray(output) for output in backend.compile(lowered)(feeds)]


def test_both_ways_agree(graph):
    rng = np.random.default_rng(4)
    feeds = [rng.standard_normal(value.shape).astype(np.float32) for value in graph.inputs]
    plain, expected = run(graph, feeds)
    lowered, got = run(graph, feeds, kernels=True)
    assert not plain.kernels
    # Sigmoid is no activation of the kernels
    through = [n for k, n in enumerate(CONVOLUTIONS) if n not in PLAIN and EPILOGUES[k % len(EPILOGUES)][0] != "Sigmoid"]
    assert sum(lowered.kernels.values()) >= len(through) - 1
    for name, one, other in zip(CONVOLUTIONS, expected, got, strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_what_kernels_do_not_take_is_left_to_xla(name):
    b, inputs = Builder(), []
    y = fused(b, inputs, np.random.default_rng(5), name, "Relu", None)
    assert not XlaBackend().lower(b.graph(name, inputs, [y]), NATIVE, {"kernels": True}).kernels


@pytest.mark.parametrize(("shape", "columns"), [((0, 512), 512), ((2, 0, 512), 512), ((3, 4), 16), ((1, 4096), 15)])
def test_products_that_are_empty_or_small_are_left_to_xla(shape, columns):
    b = Builder()
    x, w = b.input("x", "f32", shape), b.constant(np.ones((shape[-1], columns), np.float32))
    graph = b.graph("product", [x], [b.emit("Product", x, w, domain=KOPT, attrs={"transB": 0, "activation": ""})])
    lowered, (y,) = run(graph, [np.ones(shape, np.float32)], kernels=True)
    assert not lowered.kernels
    np.testing.assert_array_equal(y, np.full((*shape[:-1], columns), shape[-1]))


@pytest.mark.parametrize("dtype", ["f16", "f64"])
def test_other_types_are_left_to_xla(dtype):
    b = Builder()
    kind = DType(dtype).numpy
    x, w = b.input("x", dtype, (64, 64)), b.constant(np.full((64, 64), 0.5, kind))
    graph = b.graph("product", [x], [b.emit("Product", x, w, domain=KOPT, attrs={"transB": 1, "activation": "Relu"})])
    lowered, (y,) = run(graph, [np.ones((64, 64), kind)], kernels=True)
    assert not lowered.kernels
    assert y.dtype == kind
    np.testing.assert_array_equal(y, np.full((64, 64), 32))
