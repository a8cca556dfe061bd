import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.passes.fuse.rms_norm import FuseRmsNorm
from support.equivalence import assert_rewrites, assert_unchanged


def spelled(form="reciprocal", axis=-1, size=6, keepdims=1, square="pow"):
    b = Builder()
    x = b.input("x", "f32", ("n", 6, 6))
    two = b.emit("Pow", x, b.constant(np.float32(2))) if square == "pow" else b.emit("Mul", x, x)
    mean = b.emit("ReduceMean", two, b.constant(np.array([axis])), attrs={"keepdims": keepdims})
    root = b.emit("Sqrt", b.emit("Add", mean, b.constant(np.float32(1e-5))))
    if form == "reciprocal":
        unit = b.emit("Mul", x, b.emit("Reciprocal", root))
    elif form == "inverse":
        unit = b.emit("Mul", x, b.emit("Div", b.constant(np.float32(1)), root))
    else:
        unit = b.emit("Div", x, root)
    scale = b.constant(np.linspace(0.5, 2, size, dtype=np.float32))
    return b.graph("g", [x], [b.emit("Mul", scale, unit, hint="y")])


@pytest.mark.parametrize("form", ["reciprocal", "inverse", "quotient"])
@pytest.mark.parametrize("square", ["pow", "product"])
@pytest.mark.parametrize("axis", [-1, 2])
def test_recognised(form, square, axis):
    assert_rewrites(FuseRmsNorm(), spelled(form, axis, square=square), ops=["RMSNormalization"])


def test_others_stay():
    assert_unchanged(FuseRmsNorm(), spelled(axis=1))
    assert_unchanged(FuseRmsNorm(), spelled(size=1))
