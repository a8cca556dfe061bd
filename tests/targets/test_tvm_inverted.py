"""InvertedResidual in the tvm backend: what the xla backend gives, in one kernel or layer by layer."""

from dataclasses import replace

import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.targets.tvm import TvmBackend
from kopt.targets.xla import XlaBackend
from support.kernels import NATIVE

TWO_CORES = replace(NATIVE, num_cores=2)
"""Whether a block pays as one kernel depends on the cores that share its tasks."""

# input, E (0: no first product), M, attributes, kernels that the program calls
BLOCKS = {
    "block": ((2, 28, 27, 16), 32, 16, {"pads": (1, 1, 1, 1), "residual": 1}, {"InvertedResidual"}),
    "strided": ((1, 28, 28, 16), 48, 32, {"auto_pad": "SAME_UPPER", "strides": (2, 2), "last_activation": "Relu"}, {"InvertedResidual"}),
    "separable": ((4, 12, 11, 32), 0, 16, {"pads": (1, 1, 1, 1)}, {"InvertedResidual"}),
    "divided": ((1, 7, 7, 64), 128, 64, {"pads": (1, 1, 1, 1), "residual": 1}, {"Product", "Depthwise"}),
    "sigmoid": ((1, 14, 14, 16), 32, 16, {"pads": (1, 1, 1, 1), "activation": "Sigmoid"}, {"Product"}),
}


def block(name, biased=True):
    shape, wide, outputs, attrs, _ = BLOCKS[name]
    b, rng = Builder(), np.random.default_rng(5)
    x = b.input("x", "f32", shape)
    channels = wide or shape[-1]

    def weights(*sizes):
        return b.constant(rng.standard_normal(sizes).astype(np.float32) / 4) if biased or len(sizes) > 1 else None

    first = (weights(wide, shape[-1], 1, 1), weights(wide)) if wide else (None, None)
    operands = (*first, weights(channels, 1, 3, 3), weights(channels), weights(outputs, channels, 1, 1), weights(outputs))
    settings = {"strides": (1, 1), "dilations": (1, 1), "activation": "Clip", "last_activation": "", **attrs}
    settings |= {"activation_params": (0.0, 6.0)} if settings["activation"] == "Clip" else {}
    return b.graph("block", [x], [b.emit("InvertedResidual", x, *operands, domain="com.kopt", attrs=settings)])


def run(backend, graph, feeds, **options):
    lowered = backend.lower(graph, TWO_CORES, options)
    return lowered, np.asarray(backend.compile(lowered)(feeds)[0])


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_it_is_what_the_xla_backend_gives(name, biased):
    graph = block(name, biased)
    feeds = [np.random.default_rng(6).standard_normal(graph.inputs[0].tensor.static_shape).astype(np.float32)]
    _, expected = run(XlaBackend(), graph, feeds)
    lowered, found = run(TvmBackend(), graph, feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    if name != "sigmoid":
        assert BLOCKS[name][4] <= set(lowered.kernels)
    if "InvertedResidual" in BLOCKS[name][4]:
        _, same = run(XlaBackend(), graph, feeds, kernels=True)
        np.testing.assert_array_equal(found, same)
