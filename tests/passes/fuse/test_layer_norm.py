import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph
from kopt.passes.fuse.layer_norm import FuseLayerNorm
from support.equivalence import assert_rewrites, assert_unchanged


def spelled(*, axis: int = -1, square: str = "Pow", leak: bool = False) -> Graph:
    rng = np.random.default_rng(2)
    b = Builder()
    x = b.input("x", "f32", ("n", 6, 6))
    axes = b.constant(np.array([axis]))
    d = b.emit("Sub", x, b.emit("ReduceMean", x, axes))
    squared = b.emit("Pow", d, b.constant(np.float32(2))) if square == "Pow" else b.emit("Mul", d, d)
    var = b.emit("ReduceMean", squared, axes)
    unit = b.emit("Div", d, b.emit("Sqrt", b.emit("Add", var, b.constant(np.float32(1e-5)))))
    scale, bias = (b.constant(rng.standard_normal(6).astype(np.float32)) for _ in range(2))
    y = b.emit("Add", b.emit("Mul", unit, scale), bias, hint="y")
    return b.graph("g", [x], [y, d] if leak else [y])


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("axis", [-1, 2])
def test_recognised(square, axis):
    assert_rewrites(FuseLayerNorm(), spelled(square=square, axis=axis), ops=["LayerNormalization"], dims={"n": 2}, atol=1e-4)


def test_another_axis_or_reader_stays():
    assert_unchanged(FuseLayerNorm(), spelled(axis=1))
    assert_unchanged(FuseLayerNorm(), spelled(leak=True))
