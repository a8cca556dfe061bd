import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.flops import graph_flops
from kopt.passes.fuse.inverted_residual import FuseInvertedResidual
from passes.fuse.test_epilogue import fused_conv_nhwc
from support.equivalence import assert_rewrites, assert_unchanged, register_kopt_op

KOPT = "com.kopt"


@register_kopt_op("InvertedResidual")
def inverted(x, w1, b1, filters, b2, w3, b3=None, *, residual=0, last_activation="", last_activation_params=None, **attrs):
    act = {"activation": attrs.pop("activation", ""), "activation_params": attrs.pop("activation_params", None)}
    one = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1, "kernel_shape": (1, 1)}
    wide = x if w1 is None else fused_conv_nhwc(x, w1, b1, **one, **act)
    slid = fused_conv_nhwc(wide, filters, b2, **{**one, **attrs, "group": len(filters), "kernel_shape": filters.shape[2:]}, **act)
    last = {"activation": last_activation, "activation_params": last_activation_params}
    return fused_conv_nhwc(slid, w3, b3, x if residual else None, **one, **last)


class Model:
    def __init__(self):
        self.b, self.rng = Builder(), np.random.default_rng(1)
        self.x = self.b.input("x", "f32", (2, 7, 6, 4))

    def layer(self, x, outputs, *, added=None, bias=True, activation="", **attrs):
        group = attrs.get("group", 1)
        kernel = attrs.get("kernel_shape", (1, 1))
        w = self.b.constant(self.rng.standard_normal((outputs, x.tensor.shape[-1] // group, *kernel)).astype(np.float32))
        extra = self.b.constant(self.rng.standard_normal(outputs).astype(np.float32)) if bias else None
        window = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1, "kernel_shape": kernel, "auto_pad": "NOTSET"}
        act = {"activation": activation} | ({"activation_params": (0.0, 1.0)} if activation == "Clip" else {})
        return self.b.emit("FusedConvNhwc", x, w, extra, *([] if added is None else [added]), domain=KOPT, attrs={**window, **attrs, **act})

    def slide(self, x, **attrs):
        settings = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "group": x.tensor.shape[-1], **attrs}
        return self.layer(x, x.tensor.shape[-1], **settings)

    def graph(self, *outputs):
        return self.b.graph("g", [self.x], list(outputs))


@pytest.mark.parametrize("activation", ["", "Relu", "Clip"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_block(activation, strides, bias):
    m = Model()
    wide = m.layer(m.x, 10, activation=activation, bias=bias)
    graph = m.graph(m.layer(m.slide(wide, strides=strides, activation=activation, bias=bias), 5, bias=bias))
    after = assert_rewrites(FuseInvertedResidual(), graph, ops=["InvertedResidual"])
    assert graph_flops(after) == graph_flops(graph)


def test_residual():
    m = Model()
    y = m.layer(m.slide(m.layer(m.x, 10, activation="Relu"), activation="Relu"), 4, added=m.x, activation="Tanh")
    after = assert_rewrites(FuseInvertedResidual(), m.graph(y), ops=["InvertedResidual"])
    assert after.nodes[0].attrs["residual"] == 1


def test_separable():
    m = Model()
    after = assert_rewrites(FuseInvertedResidual(), m.graph(m.layer(m.slide(m.x, activation="Clip"), 6)), ops=["InvertedResidual"])
    assert after.nodes[0].inputs[1] is None


def test_two_blocks():
    m = Model()
    y = m.layer(m.slide(m.layer(m.x, 10, activation="Relu"), activation="Relu"), 4, added=m.x)
    y = m.layer(m.slide(m.layer(y, 9, activation="Relu"), activation="Relu", strides=(2, 2)), 5)
    assert_rewrites(FuseInvertedResidual(), m.graph(y), ops=["InvertedResidual"] * 2)


def test_different_activations_leave_the_first_layer():
    m = Model()
    y = m.layer(m.slide(m.layer(m.x, 10, activation="Relu"), activation="Clip"), 5)
    assert_rewrites(FuseInvertedResidual(), m.graph(y), ops=["FusedConvNhwc", "InvertedResidual"])


def test_what_is_no_block():
    m = Model()
    grouped = m.layer(m.slide(m.x, group=2), 4)
    spread = m.layer(m.slide(m.x), 4, kernel_shape=(2, 2))
    strided = m.layer(m.slide(m.x), 4, strides=(2, 2))
    other = m.layer(m.slide(m.x), 4, added=m.layer(m.x, 4))
    assert_unchanged(FuseInvertedResidual(), m.graph(grouped, spread, strided, other))


def test_a_wide_image_that_is_read_elsewhere_stays():
    m = Model()
    wide = m.slide(m.x)
    assert_unchanged(FuseInvertedResidual(), m.graph(m.layer(wide, 4), wide))
