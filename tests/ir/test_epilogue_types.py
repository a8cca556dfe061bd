import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.types import DType

KOPT = "com.kopt"


def product(x_shape, w_shape, dtype="f32", **attrs):
    b = Builder()
    x, w = b.input("x", dtype, x_shape), b.input("w", dtype, w_shape)
    return b.emit("Product", x, w, domain=KOPT, attrs={"transB": 0, "activation": "", **attrs})


@pytest.mark.parametrize(
    ("x", "expected"), [((3, 4), (3, 6)), (("n", "k"), ("n", 6)), ((2, "n", 1, 4), (2, "n", 1, 6)), ((0, 4), (0, 6)), ((4,), (6,))]
)
def test_columns_come_from_the_weight(x, expected):
    y = product(x, (4, 6))
    assert y.tensor.dtype is DType.F32
    assert y.tensor.shape == expected


def test_a_weight_lying_the_other_way():
    assert product((3, 4), (6, 4), transB=1).tensor.shape == (3, 6)
    assert product((3, "k"), ("m", "k"), transB=1).tensor.shape == (3, "m")


@pytest.mark.parametrize(("x", "w"), [(None, (4, 6)), ((3, 4), None), (None, None)])
def test_unknown_ranks_stay_unknown(x, w):
    y = product(x, w, "f64")
    assert y.tensor.dtype is DType.F64
    assert y.tensor.shape is None


def test_what_is_added_changes_nothing():
    b = Builder()
    x, w = b.input("x", "f32", (2, 3, 4)), b.constant(np.zeros((4, 6), np.float32))
    bias, residual = b.constant(np.zeros(6, np.float32)), b.input("r", "f32", (2, 3, 6))
    attrs = {"transB": 0, "activation": "Clip", "activation_params": (0.0, 6.0)}
    for rest in ((bias,), (None, residual), (bias, residual)):
        assert b.emit("Product", x, w, *rest, domain=KOPT, attrs=attrs).tensor.shape == (2, 3, 6)
