from collections import Counter

import jax
import numpy as np
import pytest

from kopt.errors import UsageError
from kopt.ir.builder import Builder
from kopt.ir.flops import graph_flops
from kopt.ir.types import DType
from kopt.passes.base import PassContext
from kopt.passes.layout import LayoutNhwc
from kopt.passes.precision import Precision
from kopt.passes.spec import format_pass, parse_passes
from kopt.targets.lowering.walk import load_lowerings, run_graph

TOLERANCE = {"bf16": 2e-2, "f16": 3e-3}


def floats(*shape, scale=1.0):
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * scale).astype(np.float32)


def execute(graph, feeds):
    load_lowerings()
    weights = {value: constant.array() for value, constant in graph.constants.items()}
    with jax.enable_x64(True):
        return [np.asarray(y) for y in jax.jit(lambda *given: run_graph(graph, given, weights=weights))(*feeds)]


def rewrite(graph, **options):
    ctx = PassContext()
    after = Precision(**options).run(graph, ctx)
    after.verify()
    return after, ctx


def check(graph, **options):
    """The graph in mixed precision, after running it beside the original."""
    after, _ = rewrite(graph, **options)
    feeds = [floats(*value.shape) for value in graph.inputs]
    for before, now in zip(execute(graph, feeds), execute(after, feeds), strict=True):
        assert (now.dtype, now.shape) == (before.dtype, before.shape)
        scale = np.abs(before).max(initial=1e-3)
        assert np.abs(now - before).max(initial=0) <= TOLERANCE[after_dtype(options)] * scale
    assert [(v.name, v.type) for v in (*after.inputs, *after.outputs)] == [(v.name, v.type) for v in (*graph.inputs, *graph.outputs)]
    assert graph_flops(after) == graph_flops(graph)
    return after


def after_dtype(options):
    return options.get("dtype", "bf16")


def ops(graph):
    return Counter(node.op for node in graph.nodes)


def block(rows=16, width=12):
    """Two products of one value with weights, one of their results with each other, and a softmax."""
    b = Builder()
    x = b.input("x", "f32", (2, rows, width))
    q = b.emit("MatMul", x, b.constant(floats(width, width, scale=0.3), "wq"))
    k = b.emit("MatMul", x, b.constant(floats(width, width, scale=0.2), "wk"))
    scores = b.emit("MatMul", q, b.emit("Transpose", k, attrs={"perm": (0, 2, 1)}))
    return b.graph("block", [x], [b.emit("Softmax", scores)])


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_products_narrow_and_the_rest_stays(dtype):
    after = check(block(), dtype=dtype)
    assert ops(after) == {"MatMulMixed": 3, "Cast": 3, "Transpose": 1, "Softmax": 1}  # x is cast once for both products
    assert {constant.type.dtype for constant in after.constants.values()} == {DType(dtype)}


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_gemm_keeps_its_attributes_and_an_f32_bias(dtype):
    b = Builder()
    x = b.input("x", "f32", (9, 7))
    attrs = {"transB": 1, "alpha": 0.5, "beta": 2.0}
    y = b.emit("Gemm", x, b.constant(floats(5, 7), "w"), b.constant(floats(5), "c"), attrs=attrs)
    after = check(b.graph("g", [x], [y]), dtype=dtype)
    assert ops(after) == {"Cast": 1, "GemmMixed": 1}
    assert sorted(str(constant.type.dtype) for constant in after.constants.values()) == sorted([dtype, "f32"])


def test_convolutions_that_are_products_narrow():
    b = Builder()
    x = b.input("x", "f32", (2, 4, 16, 16))

    def conv(x, out, kernel, stride=1, pad=0, group=1):
        w = b.constant(floats(out, x.shape[1] // group, kernel, kernel, scale=0.3), "w")
        attrs = {"kernel_shape": (kernel,) * 2, "strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (1, 1), "group": group}
        return b.emit("Conv", x, w, b.constant(floats(out), "c"), attrs=attrs)

    y = conv(conv(conv(x, 8, 1), 8, 3, pad=1), 8, 3, pad=1, group=8)  # product, direct, depthwise
    graph = b.graph("g", [x], [conv(conv(y, 6, 2, stride=2), 5, 3, pad=1)])  # patches, 8x8 by patches
    graph = LayoutNhwc().run(graph, PassContext())
    after = check(graph)
    assert (ops(after)["ConvNhwcMixed"], ops(after)["ConvNhwc"]) == (3, 2)
    assert check(graph, keep=("Conv",)) is graph


def test_fused_layers_narrow_whatever_their_window():
    b = Builder()
    x = b.input("x", "f32", (2, 16, 16, 4))

    def conv(x, out, kernel, pad=0, group=1):
        w = b.constant(floats(out, x.shape[-1] // group, kernel, kernel, scale=0.3), "w")
        window = {"kernel_shape": (kernel,) * 2, "strides": (1, 1), "pads": (pad,) * 4, "dilations": (1, 1), "group": group}
        return b.emit("FusedConvNhwc", x, w, b.constant(floats(out), "c"), domain="com.kopt", attrs={**window, "activation": "Relu"})

    y = conv(conv(x, 8, 3, pad=1), 8, 3, pad=1, group=8)
    y = b.emit("Product", y, b.constant(floats(8, 5), "w"), domain="com.kopt", attrs={"transB": 0, "activation": "Tanh"})
    graph = b.graph("g", [x], [y])
    after = check(graph)
    assert ops(after) == {"Cast": 2, "FusedConvNhwcMixed": 1, "FusedConvNhwc": 1, "ProductMixed": 1}
    assert check(graph, keep=("Conv", "Gemm")) is graph


@pytest.mark.parametrize("keep", [("MatMul",), ("matmul", "matmul_1", "matmul_2")])
def test_kept_nodes_and_operators(keep):
    graph = block()
    assert rewrite(graph, keep=keep)[0] is graph


def test_a_kept_name_that_is_nowhere_is_told():
    after, ctx = rewrite(block(), keep=("matmul", "nowhere"))
    assert ops(after)["MatMulMixed"] == 2
    assert [(rule, nodes) for rule, nodes, _ in ctx.skips] == [("keep", ("nowhere",))]


@pytest.mark.parametrize(
    ("weight", "dtype", "reason"),
    [
        (np.full((8, 8), 7e4, np.float32), "f16", "beyond the range of f16"),
        (np.full((8, 8), 3.4028e38, np.float32), "bf16", "beyond the range of bf16"),
        (floats(8, 8, scale=1e-9), "f16", "would become 0"),
        (floats(8, 8, scale=3e-6), "f16", "too small for f16"),
    ],
)
def test_weights_out_of_range_stay(weight, dtype, reason):
    b = Builder()
    x = b.input("x", "f32", (8, 8))
    graph = b.graph("g", [x], [b.emit("MatMul", x, b.constant(weight))])
    after, ctx = rewrite(graph, dtype=dtype)
    assert after is graph
    assert reason in ctx.skips[0][2]


def test_few_rows_other_types_and_unknown_shapes_stay():
    b = Builder()
    row, wide = b.input("r", "f32", (1, 8)), b.input("d", "f64", (16, 8))
    unknown = b.input("u", "f32", ("n", 8))
    outputs = [b.emit("MatMul", row, b.constant(floats(8, 3))), b.emit("MatMul", unknown, b.constant(floats(8, 2)))]
    outputs.append(b.emit("MatMul", wide, b.constant(floats(8, 4).astype(np.float64))))
    graph = b.graph("g", [row, wide, unknown], outputs)
    after, ctx = rewrite(graph)
    assert after is graph
    assert [reason.partition(":")[0] for _, _, reason in ctx.skips] == ["1 rows", "shapes are not static"]
    assert ops(rewrite(graph, min_rows=0)[0])["MatMulMixed"] == 1


def test_special_values_and_empty_weights():
    b = Builder()
    weight = floats(8, 3)
    weight[2, 1], weight[3, 2] = np.inf, np.nan
    x, empty = b.input("x", "f32", (9, 8)), b.input("e", "f32", (9, 0))
    outputs = [b.emit("MatMul", x, b.constant(weight)), b.emit("MatMul", empty, b.constant(floats(0, 4)))]
    graph = b.graph("g", [x, empty], outputs)
    after, _ = rewrite(graph)
    assert ops(after)["MatMulMixed"] == 2
    first, second = execute(after, [np.abs(floats(9, 8)), floats(9, 0)])
    assert np.isposinf(first[:, 1]).all()
    assert np.isnan(first[:, 2]).all()
    np.testing.assert_array_equal(second, np.zeros((9, 4), np.float32))


def test_spelling():
    assert format_pass(Precision()) == "precision"
    assert parse_passes("precision{dtype=f16,keep=Gemm}") == (Precision("f16", ("Gemm",)),)
    with pytest.raises(UsageError, match="dtype is one of bf16, f16"):
        parse_passes("precision{dtype=f32}")
