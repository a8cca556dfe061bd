from kopt.ir.builder import Builder
from kopt.ir.pattern import Var, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext


@rule(op("Neg", op("Neg", Var("x"))))
def double_negation(m, b):
    """Neg(Neg(x)) ==> x."""
    return m["x"]


@rule(op("Relu", Var("x")))
def endless(m, b):
    """Relu(x) ==> Relu(x)."""
    return b.emit("Relu", m["x"])


def chain(name, count):
    b = Builder()
    x = value = b.input("x", "f32", (3,))
    for _ in range(count):
        value = b.emit(name, value)
    return b.graph("g", [x], [value])


def test_output_name_needs_an_identity_when_it_becomes_an_input():
    graph = chain("Neg", 4)
    after = rewrite(graph, [double_negation], PassContext())
    assert [node.op for node in after.nodes] == ["Identity"]
    assert [value.name for value in after.outputs] == [value.name for value in graph.outputs]
    after.verify()


def test_a_rule_that_matches_its_own_result_ends():
    ctx = PassContext()
    after = rewrite(chain("Relu", 3), [endless], ctx, max_rounds=2)
    assert len(after.nodes) == 3
    assert ctx.rewrites == {"endless": 6}


def test_nothing_to_do_returns_the_graph():
    graph = chain("Neg", 1)
    assert rewrite(graph, [double_negation], PassContext()) is graph
