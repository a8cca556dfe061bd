"""Random small graphs keep their outputs through every pass that needs no options."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph
from kopt.passes.base import registered_passes
from kopt.passes.pipeline import Pipeline, preset
from support.equivalence import assert_same_outputs, context, random_inputs, run_graph

PASSES = (
    "fold-constants",
    "cleanup",
    "fold-batch-norm",
    "fold-pad",
    "fuse-bias",
    "fuse-gelu",
    "fuse-layer-norm",
    "fuse-rms-norm",
    "fuse-swish",
    "fuse-attention",
)
STEPS = ("relu", "sigmoid", "swish", "mish", "conv", "pad", "batch-norm", "bias", "average", "residual", "identity")


def _step(b: Builder, x, name, rng):
    def array(*shape):
        return b.constant(rng.uniform(0.5, 1.5, shape).astype(np.float32))

    channels = x.shape[1]
    match name:
        case "relu" | "sigmoid" | "identity":
            return b.emit(name.title(), x)
        case "swish":
            return b.emit("Mul", x, b.emit("Sigmoid", x))
        case "mish":
            return b.emit("Mul", b.emit("Tanh", b.emit("Softplus", x)), x)
        case "conv":
            return b.emit("Conv", x, array(3, channels, 1, 1))
        case "pad":
            return b.emit("Pad", x, b.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1])))
        case "batch-norm":
            return b.emit("BatchNormalization", x, *(array(channels) for _ in range(4)))
        case "bias":
            return b.emit("Add", x, array(channels, 1, 1))
        case "average":
            return b.emit("AveragePool", x, attrs={"kernel_shape": (2, 2), "count_include_pad": 1, "pads": (1, 0, 0, 1)})
    return b.emit("Add", x, b.emit("Relu", x))


@st.composite
def graphs(draw) -> Graph:
    b, rng = Builder(), np.random.default_rng(draw(st.integers(0, 99)))
    x = value = b.input("x", "f32", (draw(st.sampled_from([0, 1, 2])), 3, 4, 3))
    inner = []
    for name in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=7)):
        value = _step(b, value, name, rng)
        inner.append(value)
    outputs = [value]
    other = draw(st.sampled_from([None, *inner[:-1]]))
    return b.graph("g", [x], outputs if other is None else [value, other])


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs(), st.permutations(PASSES))
def test_outputs_are_kept(graph, order):
    known = registered_passes()
    after, _ = Pipeline(tuple(known[name]() for name in order)).run(graph, context())
    assert_same_outputs(graph, after, random_inputs(graph, np.random.default_rng(0)), atol=1e-4, rtol=1e-4)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_presets_keep_outputs(graph):
    inputs = random_inputs(graph, np.random.default_rng(0))
    after, _ = Pipeline(preset("onnx")).run(graph, context())
    for expected, got in zip(run_graph(graph, inputs), run_graph(after, inputs), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "xla", "xla-attention"])
def test_presets_name_built_in_passes(name):
    assert {pass_.name for pass_ in preset(name)} <= set(registered_passes())
