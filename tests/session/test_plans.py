import threading
import time
from functools import partial

import numpy as np
import pytest

from kopt.artifact import Rows, StoredProgram
from kopt.ir.types import DType, TensorType
from kopt.once import Once
from kopt.session.plans import Padded, axes, larger_batch
from kopt.targets.base import Signature


def program(batch, *, values=None):
    inputs = (("x", TensorType(DType.F32, (3, batch))), ("shared", TensorType(DType.F32, (2,))))
    return StoredProgram("fake", Signature(inputs, (("y", TensorType(DType.F32, (batch,))),)), values or {})


class Doubling:
    """``y = 2 * sum(x over axis 0) + shared[0]``, and ``shared`` unchanged."""

    def __call__(self, inputs):
        assert inputs[0].shape == (3, 8)
        return [2 * inputs[0].sum(axis=0) + inputs[1][0], inputs[1]]


@pytest.mark.parametrize("num_rows", [0, 1, 7])
def test_padding_follows_the_batch_axis(rng, num_rows):
    plan = Padded(Doubling(), (1, None), (0, None), num_rows, 8)
    x, shared = rng.standard_normal((3, num_rows)).astype(np.float32), np.ones(2, np.float32)
    y, same = plan(x, shared)
    np.testing.assert_array_equal(y, 2 * x.sum(axis=0) + 1)
    assert same is shared


def test_the_smallest_larger_batch_is_taken():
    programs, rows = [program(4), program(16), program(8)], Rows({"x": 1}, {"y": 0})

    def find(num_rows, shared=2, values=None, rows=rows):
        return larger_batch(programs, rows, {"x": (3, num_rows), "shared": (shared,)}, values or {})

    assert find(5) == (2, 5, 8)
    assert find(3) == (0, 3, 4)
    assert find(9) == (1, 9, 16)
    assert find(16) is None
    assert find(5, shared=3) is None
    assert find(5, values={"k": np.array(1)}) is None
    assert find(5, rows=None) is None


def test_inputs_of_different_batches_are_not_padded():
    inputs = (("a", TensorType(DType.F32, (4,))), ("b", TensorType(DType.F32, (4,))))
    stored = StoredProgram("fake", Signature(inputs, ()))
    rows = Rows({"a": 0, "b": 0}, {})
    assert larger_batch([stored], rows, {"a": (3,), "b": (3,)}, {}) == (0, 3, 4)
    assert larger_batch([stored], rows, {"a": (3,), "b": (2,)}, {}) is None


def test_axes_are_by_name():
    assert axes(program(4).signature.inputs, {"x": 1}) == (1, None)


def test_once_makes_a_value_once():
    made, once = [], Once(4)

    def make():
        time.sleep(0.02)
        made.append(1)
        return "value"

    found = []
    threads = [threading.Thread(target=lambda: found.append(once.get("key", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["value"] * 8
    assert made == [1]


def test_once_does_not_keep_a_failure():
    once = Once(4)

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        once.get("key", fail)
    assert once.get("key", lambda: 3) == 3


def test_once_drops_the_least_recently_asked_for():
    dropped = []
    once = Once(2, dropped.append)
    for key in ("a", "b", "a", "c"):
        once.get(key, partial(str, key))
    assert dropped == ["b"]
    assert once.values() == ["a", "c"]
