import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.types import DType
from kopt.targets import reference
from kopt.targets.xla import evaluate_node


def run(op, *arrays, evaluator=evaluate_node, **attrs):
    b = Builder()
    b.emit(op, *(b.input(f"x{k}", DType.from_numpy(array.dtype), array.shape) for k, array in enumerate(arrays)), attrs=attrs)
    return evaluator(b.nodes[0], list(arrays))[0]


UNARY = ("Abs", "Acos", "Asin", "Atan", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "Neg", "Round", "Sign", "Sin", "Sinh", "Tan", "Tanh")


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 5)])
@pytest.mark.parametrize("op", UNARY)
def test_unary_equals_the_reference(op, shape):
    x = np.random.default_rng(1).uniform(-0.99, 0.99, shape).astype(np.float32)
    ours = run(op, x)
    np.testing.assert_allclose(ours, run(op, x, evaluator=reference.evaluate_node), rtol=1e-5, atol=1e-6)
    assert ours.dtype == np.float32


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Equal", "Less", "GreaterOrEqual", "Max", "Min"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_binary_broadcasts_and_keeps_its_type(op, dtype):
    rng = np.random.default_rng(2)
    a, b = (rng.integers(1, 9, shape).astype(dtype) for shape in ((2, 1, 3), (4, 1)))
    ours, theirs = run(op, a, b), run(op, a, b, evaluator=reference.evaluate_node)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_integer_division_never_traps():
    least = np.iinfo(np.int32).min
    a, b = np.array([7, -7, 5, least], np.int32), np.array([2, 2, 0, -1], np.int32)
    assert run("Div", a, b).tolist() == [3, -3, 0, least]
    assert run("Mod", a, b).tolist() == [1, 1, 0, 0]
    assert run("Mod", a, b, fmod=1).tolist() == [1, -1, 0, 0]


def test_powers_at_the_edges_of_floats():
    x = np.array([-np.inf, -0.0, 4, -2], np.float32)
    np.testing.assert_allclose(run("Pow", np.abs(x), np.array(0.5, np.float32)), np.sqrt(np.abs(x)), rtol=1e-6)
    with np.errstate(all="ignore"):
        for exponent in (2.0, 3.0, -1.0):
            y = np.full((), exponent, np.float32)
            np.testing.assert_array_equal(run("Pow", x, y), np.power(x, y), err_msg=str(exponent))


def test_nan_stays_where_it_is():
    x = np.array([np.nan, -5, 5], np.float32)
    clipped = run("Clip", x, np.array(-1, np.float32), np.array(1, np.float32))
    assert np.isnan(clipped[0])
    assert clipped[1:].tolist() == [-1, 1]
    assert np.isnan(run("Max", x, np.zeros(3, np.float32))[0])
    assert run("IsNaN", x).tolist() == [True, False, False]


def test_rounding_is_half_to_even():
    assert run("Round", np.array([0.5, 1.5, 2.5, -0.5], np.float32)).tolist() == [0, 2, 2, 0]
