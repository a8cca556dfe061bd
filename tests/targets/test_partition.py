"""Where nodes run, and where a graph is cut."""

from __future__ import annotations

from onnx import parser

from kopt.frontend.load import load
from kopt.ir.graph import Graph
from kopt.targets.partition import Partition, host_nodes, partition


def graph_of(text: str) -> Graph:
    return load(parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>\n' + text))


def ops(found: Partition) -> list[tuple[bool, list[str]]]:
    return [(segment.on_host, [node.op for node in segment.graph.nodes]) for segment in found.segments]


def test_a_plain_graph_is_one_program_and_untouched() -> None:
    graph = graph_of("g (float[2] x) => (float[2] y) { a = Relu(x)  y = Neg(a) }")
    found = partition(graph)
    assert found.is_whole
    assert found.segments[0].graph is graph


def test_shapes_computed_from_shapes_do_not_cut() -> None:
    graph = graph_of(
        """g (float[N, 4, 2] x) => (float[N, K] y) { s = Shape(x)  zero = Constant<value_ints = [0]>()  n = Gather(s, zero)
            minus = Constant<value_ints = [-1]>()  shape = Concat<axis = 0>(n, minus)  y = Reshape(x, shape) }"""
    )
    assert partition(graph).is_whole


def test_independent_work_stays_together() -> None:
    graph = graph_of(
        """g (float[3] x, float[3] z) => (int64[1, K] n, float[3] y, float[1, K] w) {
            a = Relu(x)  n = NonZero(a)  f = Cast<to = 1>(n)  b = Neg(z)  y = Add(a, b)  w = Abs(f) }"""
    )
    found = partition(graph)
    assert ops(found) == [(False, ["Relu", "Neg", "Add"]), (True, ["NonZero"]), (False, ["Cast", "Abs"])]
    assert [one.name for one in found.host_nodes] == ["n"]
    assert all(isinstance(dim, int) or dim.startswith("?s") for dim in found.segments[2].graph.inputs[0].tensor.shape or ())


def test_a_limit_computed_from_values_starts_a_segment() -> None:
    graph = graph_of(
        """g (int64[2, 3] x) => (int64[K] y) { zero = Constant<value_int = 0>()  one = Constant<value_int = 1>()
            top = ReduceMax<keepdims = 0>(x)  y = Range(zero, top, one) }"""
    )
    found = partition(graph)
    assert ops(found) == [(False, ["ReduceMax"]), (False, ["Range"])]
    assert not found.host_nodes


def test_reasons() -> None:
    graph = graph_of(
        """g (string[2] a, float[2] x, bool c) => (string[2] b, int64 n, string[2] d) {
            b = StringConcat(a, a)  s = SequenceConstruct(x)  n = SequenceLength(s)
            d = If (c) <then_branch = t () => (string[2] p) { p = Identity(a) },
                        else_branch = e () => (string[2] q) { q = Identity(b) }> }"""
    )
    reasons = {one.name: one.reason for one in host_nodes(graph).values()}
    assert reasons == {"b": "strings", "s": "sequences", "n": "sequences", "d": "strings"}


def test_unknown_sizes_of_a_constant_are_no_reason() -> None:
    graph = graph_of("g (float[2] x) => (int64[1, K] y) { c = Constant<value = float[3] {0, 1, 2}>()  y = NonZero(c) }")
    assert not host_nodes(graph)
