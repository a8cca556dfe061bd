from collections import Counter

import numpy as np
import pytest

from kopt.errors import Location
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.spec import infer_node, node_constants
from kopt.ir.types import DType, TensorType
from kopt.passes.base import PassContext
from kopt.passes.layout import LayoutNhwc
from kopt.passes.layout_rules import axis_groups
from kopt.targets.xla import evaluate_graph
from support.plain_onnx import random_inputs, run_plain, run_reference


class Net(Builder):
    """A builder with random weights."""

    def __init__(self, seed=0):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def weight(self, *shape):
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32), "w")

    def floats(self, *values):
        return self.constant(np.asarray(values, np.float32) if len(values) != 1 else np.float32(values[0]), "c")

    def ints(self, *values):
        return self.constant(np.asarray(values, np.int64), "i")

    def conv(self, x, out, kernel=1, *, stride=1, group=1, pads=None, bias=True):
        dims = len(x.shape) - 2
        pad = kernel // 2
        w = self.weight(out, x.shape[1] // group, *[kernel] * dims)
        attrs = {
            "kernel_shape": (kernel,) * dims,
            "strides": (stride,) * dims,
            "pads": pads or (pad,) * (2 * dims),
            "group": group,
            "dilations": (1,) * dims,
        }
        return self.emit("Conv", x, w, *([self.weight(out)] if bias else []), attrs=attrs)

    def transpose(self, x, *perm):
        return self.emit("Transpose", x, attrs={"perm": perm})

    def reshape(self, x, *shape):
        return self.emit("Reshape", x, self.ints(*shape), attrs={"allowzero": 0})


def count(graph, op="Transpose"):
    return Counter(node.op for node in graph.nodes)[op]


def check(graph: Graph, transposes: int | None = None, atol=2e-5, run=run_plain) -> Graph:
    """Lay out, compare types with inference and values with ONNX Runtime, and count what is left."""
    after = LayoutNhwc().run(graph, PassContext())
    after.verify()
    assert [(v.name, v.type) for v in after.inputs] == [(v.name, v.type) for v in graph.inputs]
    assert [(v.name, v.type) for v in after.outputs] == [(v.name, v.type) for v in graph.outputs]
    assert not [node for node in after.nodes if (node.domain, node.op) in (("", "Conv"), ("", "BatchNormalization"))]
    for node in after.nodes:
        inferred = infer_node(node, node_constants(after, node))
        assert [v.type for v in node.outputs if v is not None] == list(inferred)[: len(node.outputs)], node
    names = [v.name for v in (*after.inputs, *after.constants)] + [v.name for n in after.nodes for v in n.outputs if v is not None]
    assert len(set(names)) == len(names)
    arrays = random_inputs(graph, np.random.default_rng(1))
    for wanted, got in zip(run(graph, arrays), run(after, arrays), strict=True):
        assert wanted.dtype == got.dtype
        np.testing.assert_allclose(got, wanted, atol=atol, rtol=1e-4)
    if transposes is not None:
        assert count(after) == transposes, after.nodes
    return after


def resnet(batch=2):
    b = Net()
    x = b.input("pixels", "f32", (batch, 3, 17, 15))
    y = b.emit("Relu", b.conv(x, 8, 7, stride=2))
    y = b.emit("MaxPool", y, attrs={"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1)})
    for channels, stride in ((8, 1), (16, 2)):
        z = b.emit("Relu", b.conv(y, 4))
        z = b.emit("Relu", b.conv(z, 4, 3, stride=stride))
        z = b.conv(z, channels)
        short = b.conv(y, channels, stride=stride) if stride != 1 else y
        y = b.emit("Relu", b.emit("Add", z, short))
    y = b.emit("ReduceMean", y, b.ints(-1, -2), attrs={"keepdims": 1})
    y = b.reshape(y, batch, 16)
    y = b.emit("Gemm", y, b.weight(10, 16), b.weight(10), attrs={"transB": 1})
    return b.graph("resnet", [x], [y])


def mobilenet(batch=1):
    b = Net()
    x = b.input("pixels", "f32", (batch, 3, 16, 16))
    low, high = b.floats(0.0), b.floats(6.0)
    y = b.emit("Clip", b.conv(x, 8, 3, stride=2, pads=(0, 0, 1, 1)), low, high)
    for _ in range(2):
        z = b.emit("Clip", b.conv(y, 24), low, high)
        z = b.emit("Clip", b.conv(z, 24, 3, group=24), low, high)
        y = b.emit("Add", b.conv(z, 8), y)
    y = b.emit("ReduceMean", y, b.ints(2, 3), attrs={"keepdims": 1})
    y = b.emit("Gemm", b.reshape(y, batch, 8), b.weight(5, 8), b.weight(5), attrs={"transB": 1})
    return b.graph("mobilenet", [x], [y])


def convnext(batch=1, blocks=2):
    b = Net()
    x = b.input("pixels", "f32", (batch, 3, 16, 16))

    def norm(y):
        channels = y.shape[-1]
        return b.emit("LayerNormalization", y, b.weight(channels), b.weight(channels), attrs={"axis": -1, "epsilon": 1e-6})

    y = b.conv(x, 8, 4, stride=4, pads=(0, 0, 0, 0))
    y = b.transpose(norm(b.transpose(y, 0, 2, 3, 1)), 0, 3, 1, 2)
    for stage in range(2):
        for _ in range(blocks):
            channels = y.shape[1]
            z = norm(b.transpose(b.conv(y, channels, 7, group=channels), 0, 2, 3, 1))
            z = b.emit("Gelu", b.emit("Add", b.emit("MatMul", z, b.weight(channels, 4 * channels)), b.weight(4 * channels)))
            z = b.emit("Mul", b.weight(channels), b.emit("MatMul", z, b.weight(4 * channels, channels)))
            y = b.emit("Add", y, b.transpose(z, 0, 3, 1, 2))
        if stage == 0:
            y = b.transpose(norm(b.transpose(y, 0, 2, 3, 1)), 0, 3, 1, 2)
            y = b.conv(y, 16, 2, stride=2, pads=(0, 0, 0, 0))
    y = b.emit("ReduceMean", y, b.ints(-2, -1), attrs={"keepdims": 0})
    y = b.emit("Gemm", norm(y), b.weight(10, 16), attrs={"transB": 1})
    return b.graph("convnext", [x], [y])


def vit(batch=1, layers=2):
    b = Net()
    x = b.input("pixels", "f32", (batch, 3, 16, 16))
    y = b.conv(x, 12, 4, stride=4, pads=(0, 0, 0, 0))
    y = b.transpose(b.reshape(y, batch, 12, 16), 0, 2, 1)
    y = b.emit("Concat", b.weight(batch, 1, 12), y, attrs={"axis": 1})
    y = b.emit("Add", y, b.weight(1, 17, 12))
    for _ in range(layers):
        z = b.emit("LayerNormalization", y, b.weight(12), b.weight(12), attrs={"axis": -1})
        q, k, v = (b.reshape(b.emit("MatMul", z, b.weight(12, 12)), batch, 17, -1, 4) for _ in range(3))
        scores = b.emit("MatMul", b.transpose(q, 0, 2, 1, 3), b.transpose(k, 0, 2, 3, 1))
        scores = b.emit("Softmax", b.emit("Mul", scores, b.floats(0.5)), attrs={"axis": -1})
        z = b.transpose(b.emit("MatMul", scores, b.transpose(v, 0, 2, 1, 3)), 0, 2, 1, 3)
        y = b.emit("Add", b.emit("MatMul", b.reshape(z, batch, 17, 12), b.weight(12, 12)), y)
    y = b.emit("Gather", y, b.constant(np.int64(0)), attrs={"axis": 1})
    return b.graph("vit", [x], [b.emit("Gemm", y, b.weight(5, 12), attrs={"transB": 1})])


@pytest.mark.parametrize("batch", [1, 3])
def test_image_models_keep_one_transpose_at_their_input(batch):
    for build in (resnet, mobilenet, convnext):
        after = check(build(batch), transposes=1)
        assert after.nodes[0].op == "Transpose"
        assert count(after, "ConvNhwc") == count(build(batch), "Conv")


@pytest.mark.parametrize("batch", [1, 2])
def test_a_vision_transformer_keeps_those_of_its_heads(batch):
    check(vit(batch), transposes=1 + 2 * 4)


def test_a_graph_without_convolutions_is_returned():
    b = Net()
    x = b.input("x", "f32", (2, 3, 4))
    graph = b.graph("g", [x], [b.transpose(b.emit("Relu", x), 0, 2, 1)])
    assert LayoutNhwc().run(graph, PassContext()) is graph


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_all_spatial_ranks(rank):
    b = Net()
    x = b.input("x", "f32", (2, 4, *[9] * (rank - 2)))
    y = b.emit("Relu", b.conv(x, 6, 3, bias=False))
    window = {"kernel_shape": (2,) * (rank - 2), "strides": (2,) * (rank - 2), "pads": (0,) * (2 * rank - 4)}
    y = b.emit("AveragePool", b.emit("MaxPool", y, attrs=window), attrs={**window, "strides": (1,) * (rank - 2)})
    check(b.graph("g", [x], [b.emit("GlobalAveragePool", y), b.emit("GlobalMaxPool", y)]), transposes=1)


@pytest.mark.parametrize(("p", "transposes"), [(1, 1), (2, 1), (3, 2)])
def test_norm_pools(p, transposes):
    b = Net()
    x = b.input("x", "f32", (2, 4, 9, 8))
    y = b.emit("LpPool", b.conv(x, 6, 3), attrs={"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "p": p})
    after = check(b.graph("g", [x], [b.emit("GlobalLpPool", y, attrs={"p": p})]), transposes=transposes, run=evaluate_graph)
    assert count(after, "LpPoolNhwc") == 1


def test_outputs_in_the_users_layout_cost_one_transpose_each():
    b = Net()
    x = b.input("x", "f32", (2, 4, 5, 6))
    y = b.conv(x, 6, 3)
    after = check(b.graph("g", [x], [y, b.emit("Relu", y), x, y]), transposes=3)
    assert count(after, "Identity") == 0


def test_a_channels_last_model_needs_no_transpose():
    b = Net()
    x = b.input("x", "f32", (2, 5, 6, 4))
    y = b.emit("Relu", b.conv(b.transpose(x, 0, 3, 1, 2), 6, 3))
    check(b.graph("g", [x], [b.transpose(y, 0, 2, 3, 1)]), transposes=0)


def after_conv(tail, shape=(2, 4, 6, 5), channels=6, **inputs):
    """Conv, then ``tail(builder, y, *more inputs)``, then Conv where the tail gives four axes."""
    b = Net(3)
    x = b.input("x", "f32", shape)
    more = [b.input(name, "f32", dims) for name, dims in inputs.items()]
    y = tail(b, b.conv(x, channels, 3), *more)
    outs = list(y) if isinstance(y, tuple) else [y]
    outs = [b.conv(out, 4, 3) if len(out.shape) == 4 else out for out in outs]
    outs = [b.emit("ReduceSum", out, b.ints(2, 3)) if len(out.shape) == 4 else out for out in outs]
    return b.graph("g", [x, *more], outs)


FREE = {
    "unary": lambda b, y: b.emit("Tanh", b.emit("HardSwish", y)),
    "cast": lambda b, y: b.emit("Cast", b.emit("Cast", y, attrs={"to": DType.F64.onnx}), attrs={"to": DType.F32.onnx}),
    "scalar": lambda b, y: b.emit("Mul", b.floats(0.5), y),
    "per channel": lambda b, y: b.emit("Add", y, b.weight(6, 1, 1)),
    "full constant": lambda b, y: b.emit("Sub", b.weight(2, 6, 6, 5), y),
    "row constant": lambda b, y: b.emit("Div", y, b.weight(5)),
    "prelu": lambda b, y: b.emit("PRelu", y, b.weight(6, 1, 1)),
    "where": lambda b, y: b.emit("Where", b.emit("Greater", y, b.floats(0.0)), y, b.weight(1, 6, 1, 1)),
    "squeeze and excite": lambda b, y: b.emit(
        "Mul", y, b.emit("Sigmoid", b.conv(b.emit("Relu", b.conv(b.emit("GlobalAveragePool", y), 3)), 6))
    ),
    "excite by gemm": lambda b, y: b.emit(
        "Mul",
        y,
        b.reshape(b.emit("Gemm", b.emit("ReduceMean", y, b.ints(2, 3), attrs={"keepdims": 0}), b.weight(6, 6)), 2, 6, 1, 1),
    ),
    "concat": lambda b, y: b.emit("Concat", y, b.emit("Relu", y), b.weight(2, 3, 6, 5), attrs={"axis": 1}),
    "split": lambda b, y: b.emit_many("Split", y, b.ints(2, 4), num_outputs=2, attrs={"axis": -3}),
    "softmax": lambda b, y: b.emit("Softmax", y, attrs={"axis": 1}),
    "pad": lambda b, y: b.emit("Pad", y, b.ints(0, 1, 2, 0, 0, 0, 1, 3), b.floats(0.5)),
    "pad axes": lambda b, y: b.emit("Pad", y, b.ints(1, 2, 3, 4), None, b.ints(-1, 1), attrs={"mode": "constant"}),
    "slice": lambda b, y: b.emit("Slice", y, b.ints(1, 0), b.ints(5, 4), b.ints(1, -1), b.ints(2, 1)),
    "slice all": lambda b, y: b.emit("Slice", y, b.ints(0, 2), b.ints(2, 5)),
    "resize": lambda b, y: b.emit("Resize", y, None, b.floats(1, 1, 2, 3), attrs={"mode": "nearest"}),
    "resize sizes": lambda b, y: b.emit("Resize", y, None, None, b.ints(2, 6, 9, 8), attrs={"mode": "linear"}),
    "expand": lambda b, y: b.emit("Expand", b.emit("ReduceMax", y, b.ints(2)), b.ints(6, 4, 5)),
    "tile": lambda b, y: b.emit("Tile", y, b.ints(1, 2, 1, 3)),
    "gather channels": lambda b, y: b.emit("Gather", y, b.ints(0, 5, 2), attrs={"axis": 1}),
    "gather row": lambda b, y: b.emit("Unsqueeze", b.emit("Gather", y, b.constant(np.int64(1)), attrs={"axis": 2}), b.ints(2)),
    "cumsum": lambda b, y: b.emit("CumSum", y, b.constant(np.int64(-3))),
    "argmax": lambda b, y: b.emit("Cast", b.emit("ArgMax", y, attrs={"axis": 1}), attrs={"to": DType.F32.onnx}),
    "layer norm by hand": lambda b, y: b.emit("Sub", y, b.emit("ReduceMean", y, b.ints(1))),
    "squeeze": lambda b, y: b.emit("Squeeze", b.emit("ReduceMean", y, b.ints(2, 3)), b.ints(2, 3)),
    "flatten": lambda b, y: b.emit("Flatten", b.emit("GlobalAveragePool", y), attrs={"axis": 1}),
    "split channels": lambda b, y: b.reshape(b.emit("Relu", b.reshape(y, 2, 2, 3, 6, 5)), 2, 6, 6, 5),
    "merge pixels": lambda b, y: b.reshape(b.emit("Softmax", b.reshape(y, 2, 6, 30), attrs={"axis": 1}), 2, 6, 6, 5),
    "batch norm": lambda b, y: b.emit(
        "BatchNormalization", y, b.weight(6), b.weight(6), b.weight(6), b.constant(np.full(6, 2, np.float32)), attrs={"training_mode": 0}
    ),
    "instance norm": lambda b, y: b.emit("InstanceNormalization", y, b.weight(6), b.weight(6), attrs={"epsilon": 1e-2}),
    "group norm": lambda b, y: b.emit("GroupNormalization", y, b.weight(6), b.weight(6), attrs={"num_groups": 3}, types=[y.type]),
}


@pytest.mark.parametrize("case", FREE)
def test_transposes_sink_through(case):
    check(after_conv(FREE[case]), transposes=1)


COSTLY = {
    "a real change of layout": (lambda b, y: b.emit("Add", y, b.transpose(y, 0, 1, 3, 2)), (2, 4, 5, 5), 2),
    "depth to space": (lambda b, y: b.emit("DepthToSpace", y, attrs={"blocksize": 2, "mode": "DCR"}), (2, 4, 6, 5), 2),
    "depth to space, crd": (lambda b, y: b.emit("DepthToSpace", y, attrs={"blocksize": 2, "mode": "CRD"}), (2, 4, 6, 5), 2),
    "space to depth": (lambda b, y: b.emit("SpaceToDepth", y, attrs={"blocksize": 2}), (2, 4, 6, 4), 2),
    "channel shuffle": (
        lambda b, y: b.reshape(b.transpose(b.reshape(y, 2, 2, 4, 6, 5), 0, 2, 1, 3, 4), 2, 8, 6, 5),
        (2, 4, 6, 5),
        2,
    ),
    "flatten before a classifier": (lambda b, y: b.emit("MatMul", b.emit("Flatten", y), b.weight(240, 3)), (2, 4, 6, 5), 2),
    "an operator without a rule": (lambda b, y: b.emit("LRN", y, attrs={"size": 3}), (2, 4, 6, 5), 3),
}


@pytest.mark.parametrize("case", COSTLY)
def test_what_really_moves_is_transposed_once(case):
    tail, shape, transposes = COSTLY[case]
    check(after_conv(tail, shape, channels=8), transposes=transposes)


def test_another_input_joins_in_the_layout_that_moves_less():
    check(after_conv(lambda b, y, z: b.emit("Add", y, z), z=(6, 5)), transposes=1)
    check(after_conv(lambda b, y, z: b.emit("Add", y, z), z=(6, 6, 5)), transposes=2)
    check(after_conv(lambda b, y, z: b.emit("Add", y, z), z=(2, 6, 1, 1)), transposes=1)
    check(after_conv(lambda b, y, z: b.emit("Concat", z, y, attrs={"axis": 1}), z=(2, 1, 6, 5)), transposes=1)


def test_pool_indices_and_empty_tensors():
    b = Net()
    x = b.input("x", "f32", (2, 3, 6, 6))
    y = b.emit_many("MaxPool", b.conv(x, 4), num_outputs=2, attrs={"kernel_shape": (2, 2), "strides": (2, 2)})
    check(b.graph("g", [x], list(y)), transposes=2)
    b = Net()
    x = b.input("x", "f32", (0, 3, 6, 6))
    y = b.reshape(b.emit("Relu", b.conv(x, 4)), 0, 4, 36)
    check(b.graph("g", [x], [y]))


def test_quantized_activations_follow():
    b = Net()
    x = b.input("x", "f32", (2, 3, 6, 6))
    scale, zero = b.constant(np.asarray([0.1, 0.2, 0.3, 0.4], np.float32)), b.constant(np.zeros(4, np.int8))
    q = b.emit("QuantizeLinear", b.conv(x, 4, 3), scale, zero, attrs={"axis": 1})
    y = b.conv(b.emit("DequantizeLinear", q, scale, zero, attrs={"axis": 1}), 4, 3)
    check(b.graph("g", [x], [b.emit("GlobalAveragePool", y)]), transposes=1, atol=0.05, run=run_reference)


def test_bodies_are_laid_out_and_see_the_users_layout():
    outer = Net()
    x = outer.input("x", "f32", (1, 3, 6, 6))
    flag = outer.input("flag", "bool", ())
    y = outer.conv(x, 4, 3)
    inner = Net(1)
    body = Graph(
        "then", (), (out := inner.emit("GlobalAveragePool", inner.conv(y, 4, 3)),), tuple(inner.nodes), dict(inner.constants), (y,)
    )
    other = Builder()
    zero = other.constant(np.zeros((1, 4, 1, 1), np.float32))
    branch = Graph("else", (), (other.emit("Identity", zero),), tuple(other.nodes), dict(other.constants))
    result = Value("z", TensorType(DType.F32, (1, 4, 1, 1)))
    chosen = Node("If", (flag,), (result,), {"then_branch": body, "else_branch": branch}, Location("", ("if",)))
    graph = Graph("g", (x, flag), (result,), (*outer.nodes, chosen), dict(outer.constants))
    after = LayoutNhwc().run(graph, PassContext())
    after.verify()
    laid_out = after.nodes[-1].attrs["then_branch"]
    assert laid_out.captures == (y,)
    assert [node.op for node in laid_out.nodes] == ["Transpose", "ConvNhwc", "GlobalAveragePoolNhwc", "Reshape"]
    assert [value.name for value in laid_out.outputs] == [out.name]


def test_symbolic_shapes_keep_the_users_layout():
    b = Net()
    x = b.input("x", "f32", ("n", 3, 6, 6))
    y = b.emit("Conv", x, b.weight(4, 3, 1, 1), attrs={"kernel_shape": (1, 1), "group": 1})
    graph = b.graph("g", [x], [y])
    assert [node.op for node in LayoutNhwc().run(graph, PassContext()).nodes] == ["Conv"]


def test_a_deep_graph_takes_linear_time():
    b = Net()
    x = y = b.input("x", "f32", (1, 2, 3, 3))
    y = b.conv(y, 2)
    for _ in range(3000):
        (y,) = b.emit_many("Relu", y, types=[y.type])
    after = LayoutNhwc().run(b.graph("g", [x], [y]), PassContext())
    assert count(after) == 2
    assert count(after, "Relu") == 3000


def test_axis_groups():
    assert axis_groups((2, 12, 8, 8), (2, 3, 4, 64)) == [([0], [0]), ([1], [1, 2]), ([2, 3], [3])]
    assert axis_groups((1, 6, 1), (6,)) == [([1], [0])]
    assert axis_groups((2, 3), (3, 2)) == [([0, 1], [0, 1])]
    assert axis_groups((1, 1), ()) == []
