"""Operations on whole graphs: names, substitution, what is dead, and the names of outputs."""

from __future__ import annotations

import numpy as np
import pytest

from kopt.ir import surgery
from kopt.ir.builder import Builder
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import DType, TensorType
from support.equivalence import run_graph

F32 = TensorType(DType.F32, (2,))
X = np.array([1, -2], np.float32)


def _body(outer: Value, name: str = "inner") -> Graph:
    """Neg of a captured value."""
    made = Value(name, F32)
    return Graph("body", (), (made,), (Node("Neg", (outer,), (made,)),), captures=(outer,))


def _branching() -> tuple[Graph, Value, Value]:
    """If whose branches read ``h`` = Relu(x) and ``x``."""
    b = Builder()
    x, flag = b.input("x", "f32", (2,)), b.input("flag", "bool", ())
    h = b.emit("Relu", x, hint="h")
    y = b.emit("If", flag, attrs={"then_branch": _body(h), "else_branch": _body(x, "other")}, types=[F32])
    return b.graph("g", [x, flag], [y]), x, h


def test_fresh_names_are_in_use_afterwards() -> None:
    names = surgery.Names({"a", "a_1"})
    assert [names.fresh("a"), names.fresh("b"), names.fresh("b"), names.fresh("a")] == ["a_2", "b", "b_1", "a_3"]


def test_names_of_a_graph_include_those_of_bodies() -> None:
    graph, _, _ = _branching()
    assert surgery.all_names(graph) >= {"x", "flag", "h", "inner", "other"}
    assert surgery.Names.of(graph).fresh("inner") == "inner_1"


def test_substitution_reaches_into_bodies() -> None:
    graph, x, h = _branching()
    branch = graph.nodes[1]
    new = surgery.substitute(branch, {h: x})
    assert [body.captures for body in new.subgraphs()] == [(x,), (x,)]
    assert [body.nodes[0].inputs for body in new.subgraphs()] == [(x,), (x,)]
    assert new.attrs["else_branch"] is branch.attrs["else_branch"]  # it never read h


def test_nothing_to_substitute_gives_the_same_node() -> None:
    graph, _, _ = _branching()
    assert all(surgery.substitute(node, {Value("stranger", F32): graph.inputs[0]}) is node for node in graph.nodes)


def test_a_captured_output_of_a_body_is_substituted() -> None:
    _, x, h = _branching()
    passing = Graph("body", (), (h,), (), captures=(h,))
    node = Node("If", (x,), (Value("y", F32),), {"then_branch": passing, "else_branch": passing})
    for body in surgery.substitute(node, {h: x}).subgraphs():
        assert (body.outputs, body.captures) == ((x,), (x,))


def test_captures_are_what_a_body_reads_from_outside_once_and_in_order() -> None:
    outside, given, made = (Value(name, F32) for name in ("outside", "given", "made"))
    held = Value("held", F32)
    z, w = Value("z", F32), Value("w", F32)
    nodes = (Node("Add", (given, outside), (made,)), Node("Add", (made, held), (z,)), Node("Neg", (outside,), (w,)))
    body = Graph("body", (given,), (made, outside), nodes, {held: Constant.of(X)})
    assert surgery.with_captures(body).captures == (outside,)


def test_what_nothing_depends_on_goes() -> None:
    b = Builder()
    x, kept, unused = b.input("x", "f32", (2,)), b.constant(X), b.constant(X)
    y = b.emit("Add", x, kept)
    b.emit("Neg", b.emit("Mul", x, unused))
    graph = b.graph("g", [x], [y])
    after = surgery.remove_dead(graph)
    assert [node.op for node in after.nodes] == ["Add"]
    assert list(after.constants) == [kept]
    assert after.inputs == graph.inputs
    assert surgery.remove_dead(after) is after


def test_what_only_a_body_reads_stays() -> None:
    graph, _, _ = _branching()
    assert surgery.remove_dead(graph) is graph


def test_a_node_stays_for_any_of_its_outputs() -> None:
    b = Builder()
    x = b.input("x", "f32", (2,))
    _, second = b.emit_many("Split", x, num_outputs=2, attrs={"axis": 0, "num_outputs": 2})
    graph = b.graph("g", [x], [second])
    assert surgery.remove_dead(graph) is graph


def _outputs(choice: str) -> Graph:
    """Graphs whose outputs are made, fed, constant, or given twice."""
    b = Builder()
    x, c = b.input("x", "f32", (2,)), b.constant(X + 1, "c")
    h = b.emit("Relu", b.emit("Add", x, c, hint="y"), hint="h")
    chosen = {"h": h, "x": x, "c": c, "n": b.emit("Neg", h, hint="z")}
    return surgery.remove_dead(b.graph("g", [x], [chosen[name] for name in choice]))


@pytest.mark.parametrize("choice", ["h", "x", "c", "hh", "xx", "cc", "hn", "nh", "hxc", "hhxn", "cch"])
def test_outputs_get_their_names_back(choice: str) -> None:
    graph = _outputs(choice)
    wanted = [*"yzwv"[: len(choice)]]  # y and z are names of other values in the graph
    after = surgery.keep_output_names(graph, wanted)
    after.verify()
    assert [value.name for value in after.outputs] == wanted
    assert after.inputs == graph.inputs
    made = [value.name for node in after.nodes for value in node.outputs if value is not None]
    names = [*made, *(value.name for value in (*after.inputs, *after.constants))]
    assert len(set(names)) == len(names)
    for result, expected in zip(run_graph(after, {"x": X}), run_graph(_renamed_by_hand(graph), {"x": X}), strict=True):
        np.testing.assert_array_equal(result, expected)


def _renamed_by_hand(graph: Graph) -> Graph:
    """The same outputs behind one Identity each."""
    outputs = tuple(Value(f"out{k}", value.type) for k, value in enumerate(graph.outputs))
    copies = tuple(Node("Identity", (old,), (new,), version=28) for old, new in zip(graph.outputs, outputs, strict=True))
    return graph.replace(nodes=(*graph.nodes, *copies), outputs=outputs)


def test_a_value_that_is_made_is_renamed_without_a_copy() -> None:
    assert [node.op for node in surgery.keep_output_names(_outputs("h"), ["out"]).nodes] == ["Add", "Relu"]
    assert [node.op for node in surgery.keep_output_names(_outputs("x"), ["out"]).nodes] == ["Identity"]


def test_right_names_change_nothing() -> None:
    graph = _outputs("hn")
    assert surgery.keep_output_names(graph, ["h", "z"]) is graph


def test_outputs_may_trade_names() -> None:
    graph = _outputs("hn")
    after = surgery.keep_output_names(graph, ["z", "h"])
    after.verify()
    for result, expected in zip(run_graph(after, {"x": X}), run_graph(graph, {"x": X}), strict=True):
        np.testing.assert_array_equal(result, expected)


def test_values_of_one_name_are_told_apart() -> None:
    x = Value("x", F32)
    first, second = Value("x", F32), Value("x", F32)
    graph = Graph("g", (x,), (second,), (Node("Neg", (x,), (first,), version=28), Node("Abs", (first,), (second,), version=28)))
    after = surgery.unique_names(graph)
    made = [value.name for node in after.nodes for value in node.outputs if value is not None]
    assert len({"x", *made}) == 3
    assert after.outputs == after.nodes[1].outputs
    np.testing.assert_array_equal(run_graph(after, {"x": X})[0], np.abs(X))
    assert surgery.unique_names(after) is after


def test_a_renamed_value_is_renamed_in_the_bodies_that_read_it() -> None:
    graph, _, h = _branching()
    owner = Value("h", F32)
    after = surgery.free_names(graph, [owner])
    new = after.nodes[0].outputs[0]
    assert new is not None
    assert (new.name, new.type) == ("h_1", h.type)
    assert next(after.nodes[1].subgraphs()).captures == (new,)
