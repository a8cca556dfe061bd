"""Rounding of 16-bit floats inside f32 arithmetic, against numpy."""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np
import pytest

from kopt.targets.lowering.registry import lowered_ops
from kopt.targets.lowering.rounding import MOVES, narrowed, rounded
from kopt.targets.lowering.walk import load_lowerings
from kopt.targets.xla import evaluate_graph
from support.graphs import graph
from support.node_cases import bound


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)])
def test_every_magnitude(dtype: np.dtype) -> None:
    random = np.random.default_rng(0)
    x = (random.normal(size=4000) * 2.0 ** random.integers(-30, 17, 4000)).astype(np.float32)
    x = np.concatenate([x, np.asarray([0, -0.0, np.inf, -np.inf, np.nan, 65504, 65520, 2**-24, 2**-25, 3 * 2**-25], np.float32)])
    with np.errstate(over="ignore"):
        expected = x.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(lambda v: rounded(v, dtype))(x), expected)
    np.testing.assert_array_equal(np.asarray(jax.jit(narrowed)(expected.astype(dtype))).astype(np.float32), expected)


def test_moves_are_operators() -> None:
    load_lowerings()
    assert {("", op) for op in MOVES} <= lowered_ops()


def test_steps_of_a_chain_are_rounded() -> None:
    source = graph("g (bfloat16[50] x, bfloat16[50] y) => (bfloat16[50] z) { a = Mul(x, y) b = Add(a, x) z = Mul(b, y) }")
    x, y = (np.random.default_rng(seed).normal(size=50).astype(ml_dtypes.bfloat16) for seed in (0, 1))
    ready, fed = bound(source, [x, y])
    (result,) = evaluate_graph(ready, fed)
    np.testing.assert_array_equal(result.astype(np.float32), ((x * y + x) * y).astype(np.float32))
