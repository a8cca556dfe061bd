import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph
from kopt.passes.fuse.batch_norm import FoldBatchNorm
from support.equivalence import assert_rewrites, assert_unchanged, context


def conv_bn(*, bias: bool = True, group: int = 1, var: float = 1.0, second_reader: bool = False) -> Graph:
    rng = np.random.default_rng(1)
    b = Builder()
    x = b.input("x", "f32", ("n", 4, 5, 7))
    inputs = [x, b.constant(rng.standard_normal((6, 4 // group, 3, 3)).astype(np.float32), "w")]
    if bias:
        inputs.append(b.constant(rng.standard_normal(6).astype(np.float32), "bias"))
    conv = b.emit("Conv", *inputs, attrs={"pads": (1, 1, 1, 1), "group": group})
    numbers = [b.constant(rng.standard_normal(6).astype(np.float32)) for _ in range(3)]
    spread = b.constant(np.full(6, var, np.float32))
    y = b.emit("BatchNormalization", conv, *numbers, spread, hint="y")
    return b.graph("g", [x], [y, conv] if second_reader else [y])


def test_folds_into_the_convolution():
    for graph in (conv_bn(), conv_bn(bias=False), conv_bn(group=2)):
        after = assert_rewrites(FoldBatchNorm(), graph, ops=["Conv"], dims={"n": 2}, atol=1e-4)
        assert after.outputs[0].name == "y"


def test_leaves_a_convolution_with_a_second_reader():
    assert_rewrites(FoldBatchNorm(), conv_bn(second_reader=True), ops=["Conv", "Mul", "Add"], dims={"n": 2}, atol=1e-4)


def test_says_why_it_declined():
    ctx = context()
    assert_unchanged(FoldBatchNorm(), conv_bn(var=-1e-5 - 1.0), ctx)
    assert ctx.skips[0][0] == "fold_batch_norm"
    assert "not finite" in ctx.skips[0][2]


def _parameters(b, channels, seed=3):
    rng = np.random.default_rng(seed)
    return [b.constant(rng.uniform(0.5, 2, channels).astype(np.float32)) for _ in range(4)]


def test_transposed_convolution_of_two_groups():
    b, rng = Builder(), np.random.default_rng(0)
    x = b.input("x", "f32", (2, 4, 5, 3))
    w = b.constant(rng.standard_normal((4, 3, 2, 2)).astype(np.float32))
    y = b.emit("ConvTranspose", x, w, attrs={"group": 2})
    graph = b.graph("g", [x], [b.emit("BatchNormalization", y, *_parameters(b, 6), hint="y")])
    assert_rewrites(FoldBatchNorm(), graph, ops=["ConvTranspose"], atol=1e-4)


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (1, 5)])
def test_product(turned, bias):
    b, rng = Builder(), np.random.default_rng(0)
    x = b.input("x", "f32", ("n", 4))
    w = b.constant(rng.standard_normal((5, 4) if turned else (4, 5)).astype(np.float32))
    more = [] if bias is None else [b.constant(np.asarray(rng.standard_normal(bias), np.float32))]
    y = b.emit("Gemm", x, w, *more, attrs={"transB": turned, "alpha": 0.5, "beta": 0.25})
    graph = b.graph("g", [x], [b.emit("BatchNormalization", y, *_parameters(b, 5), hint="y")])
    assert_rewrites(FoldBatchNorm(), graph, ops=["Gemm"], atol=1e-4)


@pytest.mark.parametrize("added", [None, (), (5,), (1, 5)])
def test_matmul_and_what_is_added_to_it(added):
    b, rng = Builder(), np.random.default_rng(0)
    x = b.input("x", "f32", ("n", 4))
    y = b.emit("MatMul", x, b.constant(rng.standard_normal((4, 5)).astype(np.float32)))
    if added is not None:
        y = b.emit("Add", b.constant(np.asarray(rng.standard_normal(added), np.float32)), y)
    graph = b.graph("g", [x], [b.emit("BatchNormalization", y, *_parameters(b, 5), hint="y")])
    assert_rewrites(FoldBatchNorm(), graph, ops=["Gemm"], atol=1e-4)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("added", [(), (6, 1, 1), (1, 6, 1, 1)])
def test_convolution_and_what_is_added_to_it(added, op):
    b, rng = Builder(), np.random.default_rng(0)
    x = b.input("x", "f32", (2, 6, 5, 3))
    y = b.emit(op, x, b.constant(rng.standard_normal((6, 6, 2, 2)).astype(np.float32)), _parameters(b, 6)[0])
    y = b.emit("Add", y, b.constant(np.asarray(rng.standard_normal(added), np.float32)))
    graph = b.graph("g", [x], [b.emit("BatchNormalization", y, *_parameters(b, 6), hint="y")])
    assert_rewrites(FoldBatchNorm(), graph, ops=[op], atol=1e-4)


def test_what_is_added_pixel_by_pixel_or_broadcasts_stays():
    for shape, added in (((2, 6, 3, 6), (6,)), ((2, 6, 1, 1), (1, 6, 3, 3))):
        b, rng = Builder(), np.random.default_rng(0)
        x = b.input("x", "f32", shape)
        y = b.emit("Conv", x, b.constant(rng.standard_normal((6, 6, 1, 1)).astype(np.float32)))
        y = b.emit("Add", y, b.constant(rng.standard_normal(added).astype(np.float32)))
        graph = b.graph("g", [x], [b.emit("BatchNormalization", y, *_parameters(b, 6), hint="y")])
        assert_rewrites(FoldBatchNorm(), graph, ops=["Conv", "Add", "Mul", "Add"], atol=1e-4)


def test_a_product_of_more_than_matrices_stays():
    b, rng = Builder(), np.random.default_rng(0)
    x = b.input("x", "f32", (2, 5, 4))
    y = b.emit("MatMul", x, b.constant(rng.standard_normal((4, 7)).astype(np.float32)))
    graph = b.graph("g", [x], [b.emit("BatchNormalization", y, *_parameters(b, 5), hint="y")])
    assert_rewrites(FoldBatchNorm(), graph, ops=["MatMul", "Mul", "Add"], atol=1e-4)


@pytest.mark.parametrize("shape", [("n", 3), ("n", 3, 4), (0, 3, 2, 5)])
def test_alone(shape):
    b = Builder()
    x = b.input("x", "f32", shape)
    graph = b.graph("g", [x], [b.emit("BatchNormalization", x, *_parameters(b, 3), hint="y")])
    assert_rewrites(FoldBatchNorm(), graph, ops=["Mul", "Add"])
