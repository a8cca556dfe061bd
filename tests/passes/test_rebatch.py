from collections import Counter

import numpy as np
import pytest

from kopt.errors import Location, PassError, RowDependenceError, UsageError
from kopt.frontend.export import to_model
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import DType, TensorType
from kopt.passes.base import PassContext
from kopt.passes.rebatch import Rebatch, row_independence
from support.plain_onnx import random_inputs, run_plain, run_reference


class Net(Builder):
    """A builder with random weights."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def weight(self, *shape):
        return self.constant(self.rng.standard_normal(shape).astype(np.float32), "w")

    def ints(self, *values):
        return self.constant(np.asarray(values, np.int64), "i")

    def reshape(self, x, *shape):
        return self.emit("Reshape", x, self.ints(*shape), attrs={"allowzero": 0})

    def transpose(self, x, *perm):
        return self.emit("Transpose", x, attrs={"perm": perm})


def check(graph: Graph, batch=3, run=run_plain, inputs=()) -> Graph:
    """Rebatch to a name and to a number; stacked runs equal single ones."""
    old = graph.inputs[0].shape[0]
    shared = [bool(inputs) and value.name not in inputs for value in graph.inputs]
    singles = [random_inputs(graph, np.random.default_rng(seed)) for seed in range(batch)]
    for arrays in singles:
        arrays[:] = [first if same else array for first, array, same in zip(singles[0], arrays, shared, strict=True)]
    wanted = [np.concatenate(rows) for rows in zip(*[run(graph, arrays) for arrays in singles], strict=True)]
    stacked = [rows[0] if same else np.concatenate(rows) for rows, same in zip(zip(*singles, strict=True), shared, strict=True)]
    for size in ("N", batch * old):
        after = Rebatch(size, inputs=inputs).run(graph, PassContext())
        after.verify()
        assert [value.name for value in (*after.inputs, *after.outputs)] == [value.name for value in (*graph.inputs, *graph.outputs)]
        for value, array, same in zip(after.inputs, stacked, shared, strict=True):
            assert same or value.tensor.shape == (size, *array.shape[1:])
        for one, both in zip(wanted, run(after, stacked), strict=True):
            assert one.dtype == both.dtype
            np.testing.assert_allclose(both, one, rtol=1e-4, atol=1e-5)
    return after


def bert(batch=1, sequence=5):
    """Index constants over the batch, a mask through GatherND, heads split and merged by constant shapes."""
    b = Net()
    ids = b.input("ids", "i64", (batch, sequence))
    mask = b.input("mask", "i64", (batch, sequence))
    kinds = b.emit("GatherElements", b.constant(np.zeros((batch, 9), np.int64)), b.constant(np.arange(sequence)[None]), attrs={"axis": 1})
    x = b.emit("Add", b.emit("Gather", b.weight(8, 6), ids), b.emit("Gather", b.weight(2, 6), kinds))
    x = b.emit("Add", x, b.emit("Gather", b.weight(9, 6), b.constant(np.arange(sequence)[None])))
    index = np.stack(np.meshgrid([0], [0], [0], np.arange(sequence), indexing="ij")[::3], axis=-1)
    seen = b.emit("GatherND", b.emit("Cast", mask, attrs={"to": DType.BOOL.onnx}), b.constant(index))
    seen = b.emit("And", b.constant(np.ones((1, 1, sequence, 1), bool)), seen)
    penalty = b.emit("Where", seen, b.constant(np.float32(0)), b.constant(np.float32(-9)))
    q, k, v = (b.reshape(b.emit("MatMul", x, b.weight(6, 6)), batch, sequence, -1, 3) for _ in range(3))
    scores = b.emit("Add", b.emit("MatMul", b.transpose(q, 0, 2, 1, 3), b.transpose(k, 0, 2, 3, 1)), penalty)
    y = b.emit("MatMul", b.emit("Softmax", scores, attrs={"axis": -1}), b.transpose(v, 0, 2, 1, 3))
    y = b.emit("LayerNormalization", b.reshape(b.transpose(y, 0, 2, 1, 3), batch, sequence, -1), b.weight(6), attrs={"axis": -1})
    return b.graph("bert", [ids, mask], [y])


def gpt(sequence=4):
    """The batch merged into the rows of Gemm and split off again."""
    b = Net()
    ids = b.input("ids", "i64", (1, sequence))
    x = b.emit("Add", b.emit("Gather", b.weight(8, 6), b.reshape(ids, -1, sequence)), b.weight(1, sequence, 6))
    y = b.emit("Gemm", b.reshape(x, -1, 6), b.weight(6, 12), b.weight(12))
    q, k = b.emit_many("Split", b.reshape(y, 1, sequence, 12), num_outputs=2, attrs={"axis": 2, "num_outputs": 2})
    heads = [b.transpose(b.reshape(part, 1, sequence, -1, 3), 0, 2, 1, 3) for part in (q, k)]
    y = b.emit("MatMul", heads[0], b.transpose(heads[1], 0, 1, 3, 2))
    y = b.emit("Gemm", b.reshape(b.transpose(y, 0, 2, 1, 3), sequence, 2 * sequence), b.weight(2 * sequence, 6))
    y = b.emit("Add", y, b.weight(sequence, 6))
    return b.graph("gpt", [ids], [b.reshape(y, -1, sequence, 6), y])


def vit():
    """A constant class token joined to the patches, a position table, one token selected."""
    b = Net()
    x = b.input("pixels", "f32", (1, 3, 4, 4))
    y = b.emit(
        "Conv", x, b.weight(6, 3, 2, 2), attrs={"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    )
    y = b.transpose(b.reshape(y, 1, 6, 4), 0, 2, 1)
    y = b.emit("Add", b.emit("Concat", b.weight(1, 1, 6), y, attrs={"axis": 1}), b.weight(1, 5, 6))
    y = b.emit("Gather", y, b.constant(np.int64(0)), attrs={"axis": 1})
    return b.graph("vit", [x], [b.emit("Gemm", y, b.weight(4, 6), attrs={"transB": 1})])


@pytest.mark.parametrize("build", [bert, gpt, vit])
def test_models_of_batch_one(build):
    after = check(build())
    assert Counter(node.op for node in after.nodes)["GatherND"] == 0


def test_the_result_exports_to_plain_onnx():
    model = to_model(Rebatch("N").run(vit(), PassContext()))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def one(tail, shape=(1, 4, 6, 5), dtype="f32", **inputs):
    b = Net()
    x = b.input("x", dtype, shape)
    more = [b.input(name, "f32", dims) for name, dims in inputs.items()]
    y = tail(b, x, *more)
    return b.graph("g", [x, *more], list(y) if isinstance(y, tuple) else [y])


KEPT = {
    "reduce": lambda b, x: b.emit("ReduceMean", x, b.ints(-1, 1), attrs={"keepdims": 0}),
    "reduce before the batch": lambda b, x: b.emit("ReduceSum", b.transpose(x, 1, 0, 2, 3), b.ints(0), attrs={"keepdims": 0}),
    "squeeze": lambda b, x: b.emit("Squeeze", b.emit("ReduceMax", x, b.ints(1)), b.ints(1)),
    "unsqueeze": lambda b, x: b.emit("Unsqueeze", x, b.ints(1, -1)),
    "flatten": lambda b, x: b.emit("Flatten", x, attrs={"axis": 1}),
    "flatten more": lambda b, x: b.emit("Flatten", x, attrs={"axis": 2}),
    "expand": lambda b, x: b.emit("Expand", b.emit("ReduceMax", x, b.ints(2)), b.ints(1, 4, 6, 5)),
    "tile": lambda b, x: b.emit("Tile", x, b.ints(1, 2, 1, 1)),
    "slice": lambda b, x: b.emit("Slice", x, b.ints(0, 1), b.ints(1, 4), b.ints(0, 2)),
    "pad": lambda b, x: b.emit("Pad", x, b.ints(0, 0, 1, 0, 0, 2, 0, 1)),
    "resize": lambda b, x: b.emit("Resize", x, None, None, b.ints(1, 4, 9, 7), attrs={"mode": "linear"}),
    "gather": lambda b, x: b.emit("Gather", x, b.ints(2, 0), attrs={"axis": 2}),
    "gather elements": lambda b, x: b.emit("GatherElements", x, b.constant(np.ones((1, 4, 2, 5), np.int64)), attrs={"axis": 2}),
    "top k": lambda b, x: b.emit_many("TopK", x, b.ints(2), num_outputs=2, attrs={"axis": 2}),
    "argmax": lambda b, x: b.emit("ArgMax", x, attrs={"axis": 1, "keepdims": 0}),
    "cumsum": lambda b, x: b.emit("CumSum", x, b.constant(np.int64(-1))),
    "where": lambda b, x: b.emit("Where", b.emit("Less", x, b.constant(np.float32(0))), b.weight(4, 6, 5), x),
    "einsum": lambda b, x: b.emit("Einsum", x, b.weight(5, 3), attrs={"equation": "bchw,wk->bkch"}),
    "concat of rows": lambda b, x: b.emit("Concat", b.reshape(x, 24, 5), b.weight(24, 2), attrs={"axis": 1}),
    "pools and norms": lambda b, x: b.emit(
        "InstanceNormalization", b.emit("AveragePool", x, attrs={"kernel_shape": (2, 2)}), b.weight(4), b.weight(4)
    ),
    "clip": lambda b, x: b.emit("Clip", x, b.constant(np.float32(-1)), b.constant(np.float32(1))),
    "sequence first": lambda b, x: b.transpose(
        b.reshape(b.emit("MatMul", b.reshape(b.transpose(b.reshape(x, 1, 24, 5), 1, 0, 2), 24, 5), b.weight(5, 3)), 24, 1, 3), 1, 0, 2
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_operators_keep_rows_apart(case):
    check(one(KEPT[case]))


def test_a_recurrent_network_has_its_batch_in_the_middle():
    b = Net()
    x = b.input("x", "f32", (1, 5, 4))
    first = b.constant(np.zeros((1, 1, 3), np.float32))
    y, last = b.emit_many(
        "LSTM",
        b.transpose(x, 1, 0, 2),
        b.weight(1, 12, 4),
        b.weight(1, 12, 3),
        None,
        None,
        first,
        first,
        num_outputs=2,
        attrs={"hidden_size": 3},
    )
    check(b.graph("g", [x], [b.transpose(b.emit("Squeeze", y, b.ints(1)), 1, 0, 2), b.emit("Squeeze", last, b.ints(0))]))


def test_a_batch_above_one_and_constants_that_repeat():
    same = np.repeat(np.random.default_rng(0).standard_normal((1, 1, 3)).astype(np.float32), 2, axis=0)
    check(one(lambda b, x: b.emit("Concat", b.emit("Add", x, b.constant(same)), b.constant(same), attrs={"axis": 1}), (2, 4, 3)))
    with pytest.raises(RowDependenceError, match="values for each row"):
        check(one(lambda b, x: b.emit("Add", x, b.weight(2, 4, 3)), (2, 4, 3)))


def test_inputs_that_the_rows_share():
    check(one(lambda b, x, table: b.emit("MatMul", x, table), (1, 4, 3), table=(3, 2)), inputs=("x",))
    check(one(lambda b, x, bias: b.emit("Add", x, bias), (1, 4, 3), bias=(1, 4, 3)), inputs=("x",))


REFUSED = {
    "a softmax over the batch": (lambda b, x: b.emit("Softmax", x, attrs={"axis": 0}), "works along axis 0"),
    "a sum over everything": (lambda b, x: b.emit("Unsqueeze", b.emit("ReduceSum", x, attrs={"keepdims": 0}), b.ints(0)), "reduces axis 0"),
    "a squeeze without axes": (lambda b, x: b.emit("Squeeze", x), "drops axis 0"),
    "a row selected": (lambda b, x: b.emit("Gather", x, b.ints(0)), "indexes axis 0"),
    "a product of rows": (lambda b, x: b.emit("MatMul", b.transpose(x, 1, 2, 3, 0), b.weight(1, 3)), "sums over the batch"),
    "rows against rows": (
        lambda b, x: b.emit("MatMul", b.emit("Flatten", x), b.transpose(b.emit("Flatten", x), 1, 0)),
        "mixes the rows",
    ),
    "one scale for all": (lambda b, x: b.emit_many("DynamicQuantizeLinear", x, num_outputs=3), "over the whole batch"),
    "a shape read": (lambda b, x: b.emit("Shape", x), "fold constants first"),
    "an operator without a rule": (lambda b, x: b.emit("Det", b.reshape(x, 1, 30, 2, 2)), "no rule"),
    "rows in the last place": (lambda b, x: b.transpose(x, 1, 2, 3, 0), "not in front"),
    "a constant output": (lambda b, x: (x, b.weight(1, 2)), "does not depend"),
    "images on the wrong axis": (lambda b, x: b.emit("GlobalAveragePool", b.transpose(x, 1, 0, 2, 3)), "on axis 1"),
    "random numbers": (lambda b, x: b.emit("Add", x, b.emit("RandomNormal", attrs={"shape": (1, 4, 6, 5)})), "random"),
    "a broadcast batch": (lambda b, x: b.emit("Add", x, b.weight(3, 4, 6, 5)), "cannot be repeated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_node(case):
    tail, reason = REFUSED[case]
    with pytest.raises(RowDependenceError, match=reason) as caught:
        Rebatch().run(one(tail), PassContext())
    assert "'" in str(caught.value) or " g" in str(caught.value)


def test_a_body_that_reads_rows_is_refused():
    b = Net()
    x, flag = b.input("x", "f32", (1, 3)), b.constant(np.asarray(True))
    inner = Builder()
    branches = [Graph(name, (), (inner.emit(op, x),), (inner.nodes[-1],), captures=(x,)) for name, op in (("t", "Relu"), ("e", "Neg"))]
    y = Value("y", TensorType(DType.F32, (1, 3)))
    node = Node("If", (flag,), (y,), {"then_branch": branches[0], "else_branch": branches[1]}, Location("", ("choose",)))
    graph = Graph("g", (x,), (y,), (node,), dict(b.constants))
    with pytest.raises(RowDependenceError, match="a body reads"):
        Rebatch().run(graph, PassContext())


def test_a_symbolic_batch_is_kept_or_bound():
    graph = one(lambda b, x: b.emit("Relu", x), ("n", 3))
    assert Rebatch("N").run(graph, PassContext()) is graph
    assert Rebatch(4).run(graph, PassContext()).outputs[0].shape == (4, 3)
    with pytest.raises(UsageError, match="no input 'z'"):
        Rebatch(4, inputs=("z",)).run(graph, PassContext())
    with pytest.raises(UsageError):
        Rebatch(0).run(graph, PassContext())
    static = one(lambda b, x: b.emit("Relu", x), (2, 3))
    assert Rebatch(2).run(static, PassContext()) is static


def test_numbers_are_checked_where_graphs_can_be_run():
    runs = []

    def evaluate(graph, arrays):
        runs.append(arrays[0].shape[0])
        return tuple(run_plain(graph, arrays))

    Rebatch().run(gpt(), PassContext(evaluate=evaluate))
    assert runs == [1, 1, 2]
    with pytest.raises(PassError, match="differ"):
        Rebatch().run(gpt(), PassContext(evaluate=lambda g, a: tuple(out + len(a[0]) * 9.0 for out in run_plain(g, a))))


def test_row_independence_of_a_bucket():
    bucket = Rebatch(4).run(bert(), PassContext())
    proof = row_independence(bucket)
    assert proof
    assert proof.batch == 4
    assert proof.axes(bucket) == ({"ids": 0, "mask": 0}, {bucket.outputs[0].name: 0})
    merged = Rebatch(4).run(gpt(), PassContext())
    assert row_independence(merged)
    assert row_independence(merged).axes(merged) is None
    assert not row_independence(one(lambda b, x: b.emit("Softmax", x, attrs={"axis": 0}), (4, 3)))
    refused = row_independence(one(lambda b, x: b.emit("Relu", x), ("n", 3)))
    assert not refused
    assert "known length" in refused.reason


def test_a_bucket_is_rebatched_again():
    for build in (vit, gpt):
        bucket = Rebatch(4).run(build(), PassContext())
        check(bucket, batch=2)


def test_a_deep_graph_takes_linear_time():
    b = Net()
    x = y = b.input("x", "f32", (1, 3))
    for _ in range(3000):
        (y,) = b.emit_many("Add", y, y, types=[y.type])
    assert len(Rebatch().run(b.graph("g", [x], [y]), PassContext()).nodes) == 3000


def test_quantized_rows():
    scale, zero = np.float32(0.1), np.int8(0)
    graph = one(
        lambda b, x: b.emit("DequantizeLinear", b.emit("QuantizeLinear", x, b.constant(scale), b.constant(zero)), b.constant(scale))
    )
    check(graph, run=run_reference)
