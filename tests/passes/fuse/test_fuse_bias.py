import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.passes.fuse.bias import FuseBias
from support.equivalence import assert_rewrites, assert_unchanged


def layer_and_sum(op, x_shape, w_shape, added_shape, bias_shape=None, **attrs):
    b, rng = Builder(), np.random.default_rng(2)
    x = b.input("x", "f32", x_shape)
    shapes = [w_shape, *([] if bias_shape is None else [bias_shape])]
    constants = [b.constant(np.asarray(rng.standard_normal(shape), np.float32)) for shape in shapes]
    layer = b.emit(op, x, *constants, attrs=attrs)
    added = b.constant(np.asarray(rng.standard_normal(added_shape), np.float32))
    return b.graph("g", [x], [b.emit("Add", added, layer, hint="y")])


@pytest.mark.parametrize("added", [(), (6, 1, 1), (1, 6, 1, 1)])
@pytest.mark.parametrize("bias", [None, (6,)])
def test_convolutions(added, bias):
    x = ("n", 4, 5, 3)
    assert_rewrites(FuseBias(), layer_and_sum("Conv", x, (6, 2, 3, 3), added, bias, group=2), ops=["Conv"])
    transposed = layer_and_sum("ConvTranspose", x, (4, 3, 3, 3), added, bias, group=2)
    assert_rewrites(FuseBias(), transposed, ops=["ConvTranspose"])


@pytest.mark.parametrize("added", [(5, 3), (6, 5, 3), (1, 1, 3), (2, 6, 1, 1)])
def test_other_addends_stay(added):
    graph = layer_and_sum("Conv", (2, 4, 5, 3), (6, 4, 1, 1), added)
    assert_unchanged(FuseBias(), graph)


@pytest.mark.parametrize("added", [(), (5,), (1,)])
def test_products_of_matrices(added):
    assert_rewrites(FuseBias(), layer_and_sum("MatMul", ("n", 4), (4, 5), added), ops=["Gemm"])
    assert_rewrites(FuseBias(), layer_and_sum("Gemm", ("n", 4), (5, 4), added, (1, 5), transB=1, beta=0.5), ops=["Gemm"])
    assert_unchanged(FuseBias(), layer_and_sum("MatMul", ("n", 3, 4), (4, 5), added))


def test_a_sum_that_makes_the_output_larger_stays():
    assert_unchanged(FuseBias(), layer_and_sum("Gemm", (1, 4), (4, 5), (3, 5)))
