import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.passes.fuse.pad import FoldPad
from support.equivalence import assert_rewrites, assert_unchanged


def padded(op, pads=(0, 0, 1, 0, 0, 0, 2, 1), value=0.0, axes=None, **attrs):
    b = Builder()
    x = b.input("x", "f32", (2, 3, 6, 5))
    more = [] if axes is None else [b.constant(np.array(axes))]
    y = b.emit("Pad", x, b.constant(np.array(pads)), b.constant(np.float32(value)), *more)
    if op == "Conv":
        w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
        return b.graph("g", [x], [b.emit("Conv", y, b.constant(w), attrs=attrs, hint="y")])
    return b.graph("g", [x], [b.emit(op, y, attrs={"kernel_shape": (3, 3), **attrs}, hint="y")])


def test_convolution():
    assert_rewrites(FoldPad(), padded("Conv"), ops=["Conv"])
    assert_rewrites(FoldPad(), padded("Conv", (1, 0, 2, 1), axes=(-1, 2)))


def test_pools():
    assert_rewrites(FoldPad(), padded("AveragePool", count_include_pad=1), ops=["AveragePool"])
    assert_rewrites(FoldPad(), padded("MaxPool", value=-np.inf, strides=(2, 1)), ops=["MaxPool"])


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("MaxPool", {}),
        ("AveragePool", {}),
        ("Conv", {"value": 1.0}),
        ("Conv", {"pads": (0, 0, -1, 0, 0, 0, 2, 1)}),
        ("Conv", {"auto_pad": "SAME_UPPER"}),
        ("MaxPool", {"value": -np.inf, "pads": (0, 0, 3, 0, 0, 0, 0, 0)}),
    ],
)
def test_others_stay(op, options):
    assert_unchanged(FoldPad(), padded(op, **options))
