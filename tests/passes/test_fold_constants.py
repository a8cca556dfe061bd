import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import DType, TensorType
from kopt.passes.base import PassContext
from kopt.passes.fold_constants import FoldConstants
from support.equivalence import assert_rewrites, assert_unchanged, context, random_inputs


def test_folds_a_chain_of_constants():
    b = Builder()
    x = b.input("x", "f32", ("n", 3))
    w = b.emit("Transpose", b.constant(np.arange(6, dtype=np.float32).reshape(2, 3)), attrs={"perm": (1, 0)})
    w = b.emit("Mul", w, b.constant(np.float32(2)))
    w = b.emit("Erf", w)  # no numpy rule: through the context
    y = b.emit("MatMul", x, w, hint="y")
    assert_rewrites(FoldConstants(), b.graph("g", [x], [y]), ops=["MatMul"])


def test_without_an_evaluator_keeps_what_it_cannot_compute():
    b = Builder()
    w = b.emit("Erf", b.constant(np.ones(3, np.float32)), hint="y")
    assert_unchanged(FoldConstants(), b.graph("g", [], [w]), PassContext())


def shape_chain(dims: tuple[int | str, ...]) -> Graph:
    """x -> Reshape(x, [d0, d1, heads, -1]) with every entry computed from Shape(x)."""
    b = Builder()
    x = b.input("x", "f32", dims)
    shape = b.emit("Shape", x)
    parts = [b.emit("Slice", shape, b.constant(np.array([k])), b.constant(np.array([k + 1])), b.constant(np.array([0]))) for k in range(2)]
    width = b.emit("Gather", shape, b.constant(np.int64(2)))
    per_head = b.emit("Div", width, b.constant(np.int64(2)))
    per_head = b.emit("Unsqueeze", b.emit("Cast", per_head, attrs={"to": 7}), b.constant(np.array([0])))
    target = b.emit("Concat", *parts, b.constant(np.array([2])), per_head, attrs={"axis": 0})
    y = b.emit("Reshape", x, target, hint="y")
    return b.graph("g", [x], [y])


def test_symbolic_shape_chain_becomes_one_reshape():
    graph = shape_chain(("batch", "seq", 8))
    after = assert_rewrites(FoldConstants(), graph, ops=["Reshape"], dims={"batch": 2, "seq": 5})
    assert after.outputs[0].tensor.shape == ("batch", "seq", 2, 4)
    assert after.constant(after.nodes[0].inputs[1]).tolist() == [0, 0, 2, 4]


def test_merged_symbolic_dims_become_minus_one():
    b = Builder()
    x = b.input("x", "f32", ("batch", "seq", 8))
    shape = b.emit("Shape", x)
    batch, seq = (b.emit("Gather", shape, b.constant(np.array([k]))) for k in range(2))
    target = b.emit("Concat", b.emit("Mul", batch, seq), b.constant(np.array([8])), attrs={"axis": 0})
    graph = b.graph("g", [x], [b.emit("Reshape", x, target, hint="y")])
    after = assert_rewrites(FoldConstants(), graph, ops=["Reshape"], dims={"batch": 2, "seq": 5})
    assert after.constant(after.nodes[0].inputs[1]).tolist() == [-1, 8]


def test_expand_to_own_symbolic_shape():
    b = Builder()
    x, y = b.input("x", "f32", ("n", 1)), b.input("y", "f32", ("n", 4))
    shape = b.emit("Shape", x)
    n = b.emit("Gather", shape, b.constant(np.array([0])))
    target = b.emit("Concat", n, b.constant(np.array([4])), attrs={"axis": 0})
    graph = b.graph("g", [x, y], [b.emit("Add", b.emit("Expand", x, target), y, hint="out")])
    after = assert_rewrites(FoldConstants(), graph, ops=["Expand", "Add"])
    assert after.constant(after.nodes[0].inputs[1]).tolist() == [1, 4]


def test_large_results_are_not_stored():
    b = Builder()
    y = b.emit("Expand", b.constant(np.ones((1,), np.float32)), b.constant(np.array([4 << 20])), hint="y")
    graph = b.graph("g", [], [y])
    assert_unchanged(FoldConstants(), graph)
    after = FoldConstants(max_growth_bytes=1 << 25).run(graph, context())
    assert not after.nodes


def test_random_and_dequantized_values_stay():
    b = Builder()
    r = b.emit("RandomNormalLike", b.constant(np.ones(3, np.float32)))
    d = b.emit("DequantizeLinear", b.constant(np.ones(3, np.int8)), b.constant(np.float32(0.5)))
    u = b.emit("Dropout", b.constant(np.ones(3, np.float32)), b.constant(np.float32(0.5)), b.constant(np.array(True)))
    assert_unchanged(FoldConstants(), b.graph("g", [], [r, d, u]))


def test_integer_division_truncates():
    b = Builder()
    y = b.emit("Div", b.constant(np.array([-7, 7, -8])), b.constant(np.array([2, -2, 3])), hint="y")
    after = FoldConstants().run(b.graph("g", [], [y]), PassContext())
    assert after.constant(after.outputs[0]).tolist() == [-3, -3, -2]


def test_division_by_zero_is_left_to_run_time():
    b = Builder()
    y = b.emit("Div", b.constant(np.array([1])), b.constant(np.array([0])), hint="y")
    assert_unchanged(FoldConstants(), b.graph("g", [], [y]), PassContext())


def test_negative_steps_and_indices():
    b = Builder()
    c = b.constant(np.arange(10))
    first = b.emit(
        "Slice", c, b.constant(np.array([-1])), b.constant(np.array([-(2**63)])), b.constant(np.array([0])), b.constant(np.array([-3]))
    )
    second = b.emit(
        "Slice", c, b.constant(np.array([20])), b.constant(np.array([2])), b.constant(np.array([-1])), b.constant(np.array([-2]))
    )
    third = b.emit("Slice", c, b.constant(np.array([-4])), b.constant(np.array([2**63 - 1])))
    assert_rewrites(FoldConstants(), b.graph("g", [], [first, second, third]), ops=[])


def _if(condition: Value, b: Builder, x: Value) -> Value:
    """If(condition, x + 1, x * 2) with bodies that capture ``x``."""

    def body(op: str, number: float) -> Graph:
        inner = Builder({"x", "cond", "one", "y"})
        k = inner.constant(np.float32(number), "k")
        out = inner.emit(op, x, k, hint=f"{op}_out")
        return Graph(op, (), (out,), tuple(inner.nodes), dict(inner.constants), captures=(x,))

    types = [TensorType(DType.F32, x.tensor.shape)]
    return b.emit_many("If", condition, attrs={"then_branch": body("Add", 1), "else_branch": body("Mul", 2)}, types=types, hint="y")[0]


def test_constant_if_is_inlined_and_keeps_the_output_name():
    for flag, op in ((True, "Add"), (False, "Mul")):
        b = Builder()
        x = b.input("x", "f32", ("n", 3))
        y = _if(b.constant(np.array(flag)), b, x)
        assert_rewrites(FoldConstants(), b.graph("g", [x], [y]), ops=[op])


def test_if_with_input_condition_stays():
    b = Builder()
    x, c = b.input("x", "f32", ("n", 3)), b.input("cond", "bool", ())
    graph = b.graph("g", [x, c], [_if(c, b, x)])
    assert_unchanged(FoldConstants(), graph)


def test_constant_nodes_become_constants():
    b = Builder()
    x = b.input("x", "f32", (2,))
    c = b.emit("Constant", attrs={"value": Constant.of(np.float32(3))}, types=[TensorType(DType.F32, ())])
    after = assert_rewrites(FoldConstants(), b.graph("g", [x], [b.emit("Add", x, c, hint="y")]), ops=["Add"])
    assert random_inputs(after, np.random.default_rng(0))


def test_a_slice_by_numbers_in_place_of_vectors_is_left_to_what_compiles_it():
    b = Builder()
    x = b.input("x", "f32", (2, 3))
    shape = b.emit("Shape", x)
    start, end = b.constant(np.asarray(0)), b.constant(np.asarray(1))
    y = Value("y", TensorType(DType.I64, None))
    node = Node("Slice", (shape, start, end), (y,))
    source = Graph("g", (x,), (y,), (*b.graph("g", [x], [shape]).nodes, node), b.graph("g", [x], [shape]).constants)
    folded = FoldConstants().run(source, PassContext())
    assert folded.nodes[-1].op == "Slice"
