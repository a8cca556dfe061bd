"""Batches and shapes asked for become concrete shapes, or an error that says what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from kopt import errors
from kopt.buckets import plan, random_inputs
from support import graphs

DYNAMIC = "m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"
FIXED = "m (float[1,3] x) => (float[1,3] y) { y = Relu(x) }"


def batches_of(text: str, batches=None, shapes=None) -> list[tuple[int, dict[str, tuple[int, ...]]]]:
    _, wanted = plan(graphs.graph(text), batches, shapes or {})
    return [(bucket.batch, dict(bucket.shapes)) for bucket in wanted]


def test_a_symbolic_batch_is_one_unless_asked() -> None:
    assert batches_of(DYNAMIC) == [(1, {"x": (1, 3)})]
    assert batches_of(DYNAMIC, (8, 2)) == [(8, {"x": (8, 3)}), (2, {"x": (2, 3)})]


def test_a_fixed_batch_stays_or_is_changed() -> None:
    assert batches_of(FIXED) == [(1, {"x": (1, 3)})]
    assert batches_of(FIXED, (1,)) == [(1, {"x": (1, 3)})]
    assert batches_of(FIXED, (1, 5)) == [(1, {"x": (1, 3)}), (5, {"x": (5, 3)})]


def test_one_shape_binds_the_other_inputs() -> None:
    text = "m (float[N,S] x, float[N,S] z) => (float[N,S] y) { y = Add(x, z) }"
    assert batches_of(text, shapes={"x": (2, 7)}) == [(2, {"x": (2, 7), "z": (2, 7)})]
    with pytest.raises(errors.UsageError, match="'S' is given as 7 and as 8"):
        batches_of(text, shapes={"x": (2, 7), "z": (2, 8)})


@pytest.mark.parametrize(
    ("text", "batches", "shapes", "kind", "message"),
    [
        (DYNAMIC, (0,), {}, errors.UsageError, "positive"),
        (DYNAMIC, (2, 2), {}, errors.UsageError, "distinct"),
        (DYNAMIC, (), {}, errors.UsageError, "distinct"),
        (DYNAMIC, None, {"z": (1, 3)}, errors.UsageError, "no input 'z'"),
        (DYNAMIC, None, {"x": (1, 4)}, errors.UsageError, "does not fit"),
        (DYNAMIC, None, {"x": (3,)}, errors.UsageError, "does not fit"),
        ("m (float[N,S] x) => (float[N,S] y) { y = Relu(x) }", (2,), {}, errors.DynamicShapeError, "'x' has dimensions"),
        ("m (float x) => (float y) { y = Relu(x) }", (2,), {}, errors.UsageError, "no input with a batch axis"),
    ],
)
def test_what_does_not_fit_is_named(text, batches, shapes, kind, message) -> None:
    with pytest.raises(kind, match=message):
        batches_of(text, batches, shapes)


def test_random_inputs_are_repeatable_and_index_within_the_table() -> None:
    graph = graphs.graph(
        "m (int64[N] i, bool[N] c, float[N,4] z) => (float[N,4] y) <float[5,4] t = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20}>"
        "{ one = Constant<value_ints=[1]>() r = Gather(t, i) s = Unsqueeze(c, one) y = Where(s, r, z) }"
    )
    shapes = {"i": (64,), "c": (64,), "z": (64, 4)}
    first, second = (random_inputs(graph, shapes) for _ in range(2))
    assert {name: (array.dtype.name, array.shape) for name, array in first.items()} == {
        "i": ("int64", (64,)),
        "c": ("bool", (64,)),
        "z": ("float32", (64, 4)),
    }
    assert 0 <= first["i"].min() < first["i"].max() < 5
    assert all(np.array_equal(first[name], second[name]) for name in first)
