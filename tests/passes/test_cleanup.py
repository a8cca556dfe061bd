import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.passes.base import PassContext
from kopt.passes.cleanup import Cleanup
from support.equivalence import assert_rewrites, assert_unchanged


def chain(build, shape=(2, 3, 4), dtype="f32", extra=()):
    """x -> build -> Relu -> y."""
    b = Builder()
    x = b.input("x", dtype, shape)
    return b.graph("g", [x], [b.emit("Relu", build(b, x), hint="y"), *extra])


IDENTITIES = {
    "identity": lambda b, x: b.emit("Identity", x),
    "dropout": lambda b, x: b.emit("Dropout", x, b.constant(np.float32(0.5))),
    "dropout-inference": lambda b, x: b.emit("Dropout", x, b.constant(np.float32(0.5)), b.constant(np.array(False))),
    "cast": lambda b, x: b.emit("Cast", x, attrs={"to": 1}),
    "transpose": lambda b, x: b.emit("Transpose", x, attrs={"perm": (0, 1, 2)}),
    "transposes": lambda b, x: b.emit("Transpose", b.emit("Transpose", x, attrs={"perm": (2, 0, 1)}), attrs={"perm": (1, 2, 0)}),
    "reshape": lambda b, x: b.emit("Reshape", x, b.constant(np.array([2, -1, 4]))),
    "reshapes": lambda b, x: b.emit("Reshape", b.emit("Flatten", x), b.constant(np.array([2, 3, 4]))),
    "squeeze": lambda b, x: b.emit("Squeeze", b.emit("Unsqueeze", x, b.constant(np.array([1]))), b.constant(np.array([1]))),
    "pad": lambda b, x: b.emit("Pad", x, b.constant(np.zeros(6, np.int64))),
    "slice": lambda b, x: b.emit("Slice", x, b.constant(np.array([0])), b.constant(np.array([2**63 - 1])), b.constant(np.array([1]))),
    "concat": lambda b, x: b.emit("Concat", x, attrs={"axis": 1}),
    "split-concat": lambda b, x: b.emit(
        "Concat", *b.emit_many("Split", x, num_outputs=2, attrs={"axis": 2, "num_outputs": 2}), attrs={"axis": -1}
    ),
    "add": lambda b, x: b.emit("Add", b.constant(np.zeros((1, 1), np.float32)), x),
    "sub": lambda b, x: b.emit("Sub", x, b.constant(np.float32(0))),
    "mul": lambda b, x: b.emit("Mul", x, b.constant(np.ones((3, 1), np.float32))),
    "div": lambda b, x: b.emit("Div", x, b.constant(np.float32(1))),
    "pow": lambda b, x: b.emit("Pow", x, b.constant(np.float32(1))),
    "expand": lambda b, x: b.emit("Expand", x, b.constant(np.array([1, 1]))),
    "tile": lambda b, x: b.emit("Tile", x, b.constant(np.array([1, 1, 1]))),
    "where": lambda b, x: b.emit("Where", b.constant(np.array([True])), x, b.constant(np.float32(3))),
    "max": lambda b, x: b.emit("Max", x),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_is_removed(name):
    assert_rewrites(Cleanup(), chain(IDENTITIES[name]), ops=["Relu"])


OTHERS = {
    "broadcasting-add": lambda b, x: b.emit("Add", x, b.constant(np.zeros((5, 1, 1, 1), np.float32))),
    "cast-away": lambda b, x: b.emit("Cast", b.emit("Cast", x, attrs={"to": 7}), attrs={"to": 1}),
    "partial-slice": lambda b, x: b.emit("Slice", x, b.constant(np.array([1])), b.constant(np.array([2**63 - 1]))),
    "reversing-slice": lambda b, x: b.emit(
        "Slice", x, b.constant(np.array([-1])), b.constant(np.array([-(2**63)])), b.constant(np.array([1])), b.constant(np.array([-1]))
    ),
    "growing-pad": lambda b, x: b.emit("Pad", x, b.constant(np.array([0, 0, 0, 1, 0, 0]))),
    "transpose": lambda b, x: b.emit("Transpose", x, attrs={"perm": (0, 2, 1)}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_matters_stays(name):
    assert_unchanged(Cleanup(merge_common=False), chain(OTHERS[name]))


def test_training_dropout_stays():
    assert_unchanged(Cleanup(), chain(lambda b, x: b.emit("Dropout", x, b.constant(np.float32(0.5)), b.constant(np.array(True)))))


def test_symbolic_reshapes_merge():
    def build(b, x):
        flat = b.emit("Reshape", x, b.constant(np.array([-1, 4])))
        return b.emit("Reshape", flat, b.constant(np.array([-1, 3, 4])))

    assert_rewrites(Cleanup(), chain(build, ("n", 3, 4)), ops=["Relu"], dims={"n": 5})
    assert_rewrites(Cleanup(), chain(build, ("n", 6, 2)), ops=["Reshape", "Relu"], dims={"n": 5})


def test_transposes_merge_into_one():
    def build(b, x):
        for perm in ((1, 0, 2), (0, 2, 1), (2, 1, 0)):
            x = b.emit("Transpose", x, attrs={"perm": perm})
        return b.emit("Transpose", x, attrs={"perm": (1, 2, 0)})

    after = assert_rewrites(Cleanup(), chain(build))
    assert [node.op for node in after.nodes] in (["Transpose", "Relu"], ["Relu"])


def test_common_subexpressions_merge():
    b = Builder()
    x = b.input("x", "f32", ("n", 4))
    parts = [b.emit("Mul", b.emit("Sigmoid", x), b.constant(np.float32(2))) for _ in range(3)]
    graph = b.graph("g", [x], [b.emit("Sum", *parts, hint="y")])
    after = assert_rewrites(Cleanup(), graph, ops=["Sigmoid", "Mul", "Sum"])
    assert len(after.constants) == 1


def test_equal_graph_outputs_stay_apart():
    b = Builder()
    x = b.input("x", "f32", (3,))
    graph = b.graph("g", [x], [b.emit("Relu", x, hint="a"), b.emit("Relu", x, hint="b")])
    assert_unchanged(Cleanup(), graph)


def test_random_nodes_are_not_merged():
    b = Builder()
    x = b.input("x", "f32", (3,))
    graph = b.graph("g", [x], [b.emit("Add", b.emit("RandomNormalLike", x), b.emit("RandomNormalLike", x))])
    assert_unchanged(Cleanup(), graph)


def test_output_names_are_kept():
    b = Builder()
    x = b.input("x", "f32", (3,))
    y = b.emit("Identity", b.emit("Relu", x, hint="inner"), hint="y")
    after = assert_rewrites(Cleanup(), b.graph("g", [x], [y]), ops=["Relu"])
    assert after.outputs[0].name == "y"


def test_an_input_that_is_an_output_needs_its_identity():
    b = Builder()
    x = b.input("x", "f32", (3,))
    assert_unchanged(Cleanup(), b.graph("g", [x], [b.emit("Identity", x, hint="y")]))


def test_dead_nodes_and_constants_go():
    b = Builder()
    x = b.input("x", "f32", (3,))
    b.emit("Exp", b.emit("Add", x, b.constant(np.ones(3, np.float32))))
    graph = b.graph("g", [x], [b.emit("Relu", x, hint="y")])
    after = assert_rewrites(Cleanup(), graph, ops=["Relu"])
    assert not after.constants


def body_graph(x: Value) -> Graph:
    inner = Builder({"x", "c", "y"})
    out = inner.emit("Exp", inner.emit("Identity", inner.emit("Identity", x)), hint="inner_out")
    return Graph("body", (), (out,), tuple(inner.nodes), dict(inner.constants), captures=(x,))


def test_bodies_are_cleaned_too():
    b = Builder()
    x, c = b.input("x", "f32", (3,)), b.input("c", "bool", ())
    source = b.emit("Identity", x)
    then, other = body_graph(source), body_graph(source)
    y = b.emit_many("If", c, attrs={"then_branch": then, "else_branch": other}, types=[x.type], hint="y")[0]
    after = assert_rewrites(Cleanup(), b.graph("g", [x, c], [y]), ops=["If"])
    bodies = list(after.nodes[0].subgraphs())
    assert [len(body.nodes) for body in bodies] == [1, 1]
    assert bodies[0].captures == (after.inputs[0],)


def test_thirty_thousand_nodes():
    b = Builder()
    x = value = b.input("x", "f32", (3,))
    types = [x.type]
    for _ in range(10_000):
        value = b.emit_many("Identity", b.emit_many("Relu", b.emit_many("Identity", value, types=types)[0], types=types)[0], types=types)[0]
    graph = b.graph("g", [x], [value])
    after = Cleanup().run(graph, PassContext())
    assert len(after.nodes) == 10_000
