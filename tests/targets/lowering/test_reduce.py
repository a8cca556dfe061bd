import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.targets import reference
from kopt.targets.xla import evaluate_node

OPS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


def run(op, x, axes, **attrs):
    b = Builder()
    value = b.input("x", {"f": "f32", "i": "i32"}[x.dtype.kind], x.shape)
    inputs = (value,) if axes is None else (value, b.constant(np.array(axes, np.int64)))
    b.emit(op, *inputs, attrs=attrs)
    arrays = [x] if axes is None else [x, np.array(axes, np.int64)]
    # constants are fed as arrays, which is how a compiled program knows them
    graph_node = b.nodes[0]
    (ours,) = evaluate_node(graph_node, arrays)
    (theirs,) = reference.evaluate_node(graph_node, arrays)
    return ours, theirs


@pytest.mark.parametrize("axes", [None, [0], [-1], [0, 2]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op", OPS)
def test_floats_equal_the_reference(op, keepdims, axes):
    x = np.random.default_rng(0).uniform(0.1, 2, (2, 3, 5)).astype(np.float32)
    ours, theirs = run(f"Reduce{op}", x, axes, keepdims=keepdims)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert ours.shape == theirs.shape


def test_the_mean_of_integers_divides_by_what_was_reduced_and_truncates():
    ours, _ = run("ReduceMean", np.array([[1, 2, 6], [-1, -2, -5]], np.int32), [1], keepdims=0)
    assert ours.tolist() == [3, -2]


@pytest.mark.parametrize(("op", "expected"), [("ReduceSum", 0.0), ("ReduceMax", -np.inf), ("ReduceMin", np.inf), ("ReduceProd", 1.0)])
def test_nothing_reduces_to_the_neutral_element(op, expected):
    ours, _ = run("ReduceSum", np.zeros((2, 0), np.float32), [1], keepdims=0)
    assert ours.tolist() == [0, 0]
    b = Builder()
    value = b.input("x", "f32", (2, 0))
    b.emit(op, value, b.constant(np.array([1], np.int64)), attrs={"keepdims": 0})
    (result,) = evaluate_node(b.nodes[0], [np.zeros((2, 0), np.float32), np.array([1], np.int64)])
    assert result.tolist() == [expected, expected]


def test_nan_propagates():
    ours, _ = run("ReduceMax", np.array([[1, np.nan], [2, 3]], np.float32), [1], keepdims=0)
    assert np.isnan(ours[0])
    assert ours[1] == 3
