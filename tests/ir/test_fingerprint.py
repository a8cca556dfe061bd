import numpy as np

from kopt.ir.fingerprint import fingerprint, structure_fingerprint
from kopt.ir.text import graph_text
from support.graphs import graph

MODEL = "m (float[N,3] x) => (float[N,3] y) <float[3] w = {%s}> { %s = Add(x, w) y = %s(%s) }"


def test_inner_names_do_not_count_but_ops_weights_and_signature_do() -> None:
    first = graph(MODEL % ("1, 2, 3", "a", "Relu", "a"))
    renamed = graph(MODEL % ("1, 2, 3", "b", "Relu", "b"))
    retrained = graph(MODEL % ("1, 2, 4", "a", "Relu", "a"))
    other = graph(MODEL % ("1, 2, 3", "a", "Tanh", "a"))
    assert fingerprint(first) == fingerprint(renamed)
    assert fingerprint(first) != fingerprint(retrained)
    assert structure_fingerprint(first) == structure_fingerprint(retrained)
    assert len({structure_fingerprint(first), structure_fingerprint(other)}) == 2


def test_constants_captured_by_a_body_count() -> None:
    text = """m (bool c, float[3] x) => (float[3] y) <float[3] w = {%s}> {
        y = If (c) <then_branch = t () => (float[3] p) { p = Add(x, w) }, else_branch = e () => (float[3] q) { q = Sub(x, w) }>
    }"""
    assert fingerprint(graph(text % "1, 2, 3")) != fingerprint(graph(text % "1, 2, 5"))


def test_attributes_count() -> None:
    text = "m (float[2,3] x) => (y) { y = Softmax<axis = %d>(x) }"
    assert fingerprint(graph(text % 0)) != fingerprint(graph(text % 1))


def test_the_shape_of_a_constant_counts() -> None:
    first = graph("m (float[2,3] x) => (y) <float[1,3] w = {1, 2, 3}> { y = Add(x, w) }")
    second = graph("m (float[2,3] x) => (y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }")
    assert structure_fingerprint(first) != structure_fingerprint(second)


def test_text_shows_types_constants_attributes_and_bodies() -> None:
    text = graph_text(
        graph(
            """m (bool c, float[2,3] x) => (float[2,3] y) <float[3] w = {1, 2, 3}> {
            a = Add(x, w)
            b = Softmax<axis = 0>(a)
            y = If (c) <then_branch = t () => (p) { p = Neg(b) }, else_branch = e () => (q) { q = Identity(b) }>
        }"""
        )
    )
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "graph m(%c: bool[], %x: f32[2,3]) -> (%y: f32[2,3])"
    assert "%w = constant f32[3] [1.0, 2.0, 3.0]" in lines
    assert "%b: f32[2,3] = Softmax(%a) {axis=0}" in lines
    assert "captures %b" in lines
    assert np.count_nonzero(["then_branch" in line for line in lines]) == 2
