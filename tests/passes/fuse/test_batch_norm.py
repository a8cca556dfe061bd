import numpy as np

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
    assert_unchanged(FoldBatchNorm(), conv_bn(second_reader=True))


def test_says_why_it_declined():
    ctx = context()
    assert_unchanged(FoldBatchNorm(), conv_bn(var=-1e-5 - 1.0), ctx)
    assert ctx.skips[0][0] == "fold_batch_norm"
    assert "not finite" in ctx.skips[0][2]
