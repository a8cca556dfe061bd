"""Patterns: what they find, what they leave, and what they call it."""

from __future__ import annotations

import numpy as np
import pytest

from kopt.errors import Location
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.ir.pattern import Match, Number, Op, Var, any_of, match, op


class Net(Builder):
    """A builder over the input ``x``."""

    def __init__(self) -> None:
        super().__init__()
        self.x = self.input("x", "f32", (2, 3))
        self.y = self.input("y", "f32", (2, 3))

    def number(self, value: float, *shape: int) -> Value:
        return self.constant(np.full(shape, value, np.float32))

    def done(self, *outputs: Value) -> Graph:
        return self.graph("g", [self.x, self.y], outputs)


def find(pattern: Op, graph: Graph) -> list[Match]:
    return [found for node in graph.nodes if (found := match(pattern, graph, node))]


def test_a_chain_is_bound_by_name() -> None:
    b = Net()
    graph = b.done(b.emit("Relu", b.emit("Add", b.x, b.number(2, 3), hint="sum")))
    (found,) = find(op("Relu", op("Add", Var("x"), Var("bias", constant=True), as_="add"), as_="relu"), graph)
    assert found["x"] is b.x
    assert found.array("bias").tolist() == [2, 2, 2]
    assert found.root is found.node("relu") is graph.nodes[1]
    assert found.node("add") is graph.nodes[0]
    assert found.nodes == [graph.nodes[1], graph.nodes[0]]


def test_other_operators_and_domains_do_not_match() -> None:
    b = Net()
    graph = b.done(b.emit("Gelu", b.x), b.emit("Gelu", b.y, domain="com.microsoft"))
    assert [found["x"] for found in find(op("Gelu", Var("x")), graph)] == [b.x]
    assert [found["x"] for found in find(op("Gelu", Var("x"), domain="com.microsoft"), graph)] == [b.y]


@pytest.mark.parametrize("swapped", [False, True])
def test_commutative_operators_match_both_ways(swapped: bool) -> None:
    b = Net()
    inner = b.emit("Relu", b.x)
    graph = b.done(b.emit("Add", *((b.y, inner) if swapped else (inner, b.y))))
    pattern = op("Add", op("Relu", Var("x")), Var("y"))
    assert len(find(pattern, graph)) == (0 if swapped else 1)
    (found,) = find(op("Add", op("Relu", Var("x")), Var("y"), commutative=True), graph)
    assert (found["x"], found["y"]) == (b.x, b.y)


def test_one_name_is_one_value() -> None:
    b = Net()
    graph = b.done(b.emit("Mul", b.x, b.emit("Sigmoid", b.x)), b.emit("Mul", b.x, b.emit("Sigmoid", b.y)))
    (found,) = find(op("Mul", Var("x"), op("Sigmoid", Var("x"))), graph)
    assert found.root is graph.nodes[1]


@pytest.mark.parametrize("swapped", [False, True])
def test_inner_orders_are_tried_until_the_whole_fits(swapped: bool) -> None:
    b = Net()
    graph = b.done(b.emit("Sub", b.emit("Add", *((b.y, b.x) if swapped else (b.x, b.y))), b.y))
    pattern = op("Sub", op("Add", Var("twice"), Var("other"), commutative=True), Var("other"))
    (found,) = find(pattern, graph)
    assert (found["twice"], found["other"]) == (b.x, b.y)


def test_the_inside_of_a_match_must_have_no_other_reader() -> None:
    b = Net()
    inner = b.emit("Sigmoid", b.x)
    product = b.emit("Mul", b.x, inner)
    pattern = op("Mul", Var("x"), op("Sigmoid", Var("x")))
    assert len(find(pattern, b.done(product))) == 1
    assert find(pattern, b.done(product, inner)) == []
    assert find(pattern, b.done(product, b.emit("Neg", inner))) == []


def test_an_inner_value_may_be_read_twice_within_the_match() -> None:
    b = Net()
    inner = b.emit("Relu", b.x)
    graph = b.done(b.emit("Mul", inner, inner))
    (found,) = find(op("Mul", op("Relu", Var("x")), op("Relu", Var("x"))), graph)
    assert found["x"] is b.x


@pytest.mark.parametrize(("value", "shape", "fits"), [(0.5, (), True), (0.5002, (1,), True), (0.6, (), False), (0.5, (3,), False)])
def test_numbers_are_single_constants_near_the_value(value: float, shape: tuple[int, ...], fits: bool) -> None:
    b = Net()
    graph = b.done(b.emit("Mul", b.x, b.number(value, *shape)))
    assert len(find(op("Mul", Var("x"), Number(0.5)), graph)) == fits


def test_a_fed_value_is_no_constant_and_no_number() -> None:
    b = Net()
    graph = b.done(b.emit("Mul", b.x, b.y))
    assert find(op("Mul", Var("x"), Var("c", constant=True)), graph) == []
    assert find(op("Mul", Var("x"), Number(0.0)), graph) == []


def test_optional_inputs() -> None:
    b = Net()
    low, high = b.number(-1), b.number(1)
    graph = b.done(b.emit("Clip", b.x, None, high), b.emit("Clip", b.x), b.emit("Clip", b.x, low, high))
    assert [found.has("low") for found in find(op("Clip", Var("x"), Var("low", optional=True), Var("high")), graph)] == [False, True]
    pattern = op("Clip", Var("x"), Var("low", optional=True), Var("high", optional=True))
    assert [(found.has("low"), found.has("high")) for found in find(pattern, graph)] == [(False, True), (False, False), (True, True)]
    with pytest.raises(KeyError):
        find(pattern, graph)[0]["low"]


def test_inputs_beyond_the_pattern_must_be_absent() -> None:
    b = Net()
    graph = b.done(b.emit("Clip", b.x), b.emit("Clip", b.x, None, b.number(1)))
    assert [found.root for found in find(op("Clip", Var("x")), graph)] == [graph.nodes[0]]


def test_further_outputs_must_not_be_read() -> None:
    b = Net()
    first, second = b.emit_many("Split", b.x, num_outputs=2, attrs={"axis": 1, "num_outputs": 2})
    assert len(find(op("Split", Var("x")), b.done(first))) == 1
    assert find(op("Split", Var("x")), b.done(first, second)) == []
    assert find(op("Relu", op("Split", Var("x"))), Net.done(b, b.emit("Relu", second))) == []


@pytest.mark.parametrize("name", ["Relu", "Tanh", "Sigmoid"])
def test_alternatives(name: str) -> None:
    b = Net()
    graph = b.done(b.emit("Neg", b.emit(name, b.x)))
    found = find(op("Neg", any_of(op("Relu", Var("x")), op("Tanh", Var("x"), as_="tanh"))), graph)
    assert len(found) == (name != "Sigmoid")
    assert [("tanh" in match.named) for match in found] == [name == "Tanh"] * len(found)


def test_the_next_alternative_is_taken_where_the_first_has_readers_outside() -> None:
    b = Net()
    inner = b.emit("Relu", b.x)
    pattern = op("Neg", any_of(op("Relu", Var("x")), Var("x")))
    assert [found["x"] for found in find(pattern, b.done(b.emit("Neg", inner)))] == [b.x]
    assert [found["x"] for found in find(pattern, b.done(b.nodes[1].output, inner))] == [inner]


def test_names_of_nodes_that_did_not_fit_are_forgotten() -> None:
    b = Net()
    graph = b.done(b.emit("Add", b.emit("Relu", b.x), b.emit("Tanh", b.y)))
    first = op("Sub", op("Relu", Var("p"), as_="relu"), Var("q"))
    second = op("Add", any_of(op("Relu", Number(0.0), as_="wrong"), Var("a")), Var("b"))
    assert find(first, graph) == []
    (found,) = find(second, graph)
    assert set(found.named) == set()
    assert set(found.values) == {"a", "b"}


def test_dead_nodes_take_no_part() -> None:
    b = Net()
    graph = b.done(b.emit("Neg", b.emit("Relu", b.x)))
    pattern, root = op("Neg", op("Relu", Var("x"))), graph.nodes[1]
    assert match(pattern, graph, root) is not None
    assert match(pattern, graph, root, alive=lambda node: node.op != "Relu") is None


def test_the_location_names_all_nodes_in_order() -> None:
    b = Net()
    inner = b.emit("Relu", b.x, loc=Location("m", ("first",)))
    graph = b.done(b.emit("Neg", inner, loc=Location("m", ("second",))))
    (found,) = find(op("Neg", op("Relu", Var("x"))), graph)
    assert found.loc == Location("m", ("first", "second"))
