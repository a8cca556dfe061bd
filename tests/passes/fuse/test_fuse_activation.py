import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.passes.fuse.activation import FuseActivation
from support.equivalence import assert_rewrites, assert_unchanged


def activated(op, activation, *, bias=True, dtype=np.float32):
    b, rng = Builder(), np.random.default_rng(4)
    shape, w_shape = {"Conv": (("n", 4, 5, 3), (6, 2, 3, 3)), "Gemm": (("n", 4), (6, 4))}[op]
    x = b.input("x", "f32" if dtype == np.float32 else "f64", shape)
    constants = [b.constant(rng.standard_normal(s).astype(dtype)) for s in (w_shape, (6,))]
    attrs = {"group": 2, "pads": (1, 0, 1, 1)} if op == "Conv" else {"transB": 1, "alpha": 0.5}
    y = b.emit(op, x, *constants[: 2 if bias else 1], attrs=attrs)
    more = {"attrs": {"alpha": 0.3}} if activation == "LeakyRelu" else {}
    return b.graph("g", [x], [b.emit(activation, y, hint="y", **more)])


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh", "LeakyRelu"])
def test_recognised(activation):
    assert_rewrites(FuseActivation(), activated("Conv", activation), ops=["FusedConv"])
    assert_rewrites(FuseActivation(), activated("Conv", activation, bias=False), ops=["FusedConv"])
    assert_rewrites(FuseActivation(), activated("Gemm", activation), ops=["FusedGemm"])


def test_others_stay():
    assert_unchanged(FuseActivation(), activated("Gemm", "Relu", bias=False))
    assert_unchanged(FuseActivation(), activated("Gemm", "Relu", dtype=np.float64))
    assert_unchanged(FuseActivation(), activated("Conv", "Elu"))
