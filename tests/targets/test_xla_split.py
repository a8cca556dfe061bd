import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from kopt.targets.xla_split import split


def run_split(function, weights, inputs):
    traced = jax.make_jaxpr(function)(weights, inputs)
    parts = split(traced, weights)
    got = jaxpr_as_fun(parts.program)(*parts.packed, *inputs)
    for a, b in zip(got, jax.tree.leaves(function(weights, inputs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    return parts, [eqn.primitive.name for eqn in parts.program.jaxpr.eqns]


@pytest.fixture
def weight():
    return np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)


def test_packing_a_weight_leaves_the_program(weight):
    x = np.ones((2, 32), np.float32)
    parts, ops = run_split(lambda w, i: jnp.dot(i[0], (w[0] * 2).T), [weight], [x])
    assert ops == ["dot_general"]
    assert [array.shape for array in parts.packed] == [(32, 16)]
    assert parts.origins == (None,)


def test_an_unchanged_weight_keeps_its_origin(weight):
    parts, _ = run_split(lambda w, i: jnp.dot(i[0], w[1]), [np.ones(3, np.float32), weight], [np.ones((2, 16), np.float32)])
    assert parts.origins == (1,)
    assert parts.packed[0] is weight or np.shares_memory(parts.packed[0], weight)


def test_broadcasts_stay_in_the_program(weight):
    x = np.ones((64, 16, 32), np.float32)
    parts, ops = run_split(lambda w, i: i[0] + jnp.broadcast_to(w[0].T.T, (64, 16, 32)), [weight], [x])
    assert "broadcast_in_dim" in ops
    assert sum(array.nbytes for array in parts.packed) == weight.nbytes


def test_growing_chains_are_recomputed_in_order(weight):
    x = np.ones((64, 16, 32), np.float32)
    _, ops = run_split(lambda w, i: i[0] * (jnp.broadcast_to(w[0], (64, 16, 32)).reshape(64, 512).reshape(64, 16, 32)), [weight], [x])
    assert ops[-1] == "mul"


def test_nested_calls_are_inlined(weight):
    @jax.jit
    def inner(w, x):
        return jax.nn.relu(x) @ w.T, w.sum()

    def outer(w, i):
        a, b = inner(w[0], i[0])
        c, d = inner(w[0] * 3, i[0])
        return a + c, b + d

    _, ops = run_split(outer, [weight], [np.ones((2, 32), np.float32)])
    assert "transpose" not in ops
    assert "reduce_sum" not in ops
    assert ops.count("dot_general") == 2


def test_outputs_that_depend_on_no_input_are_stored(weight):
    parts, ops = run_split(lambda w, i: (w[0].T, i[0], w[0]), [weight], [np.ones(2, np.float32)])
    assert ops == []
    assert len(parts.packed) == 2


def test_control_flow_keeps_its_bodies(weight):
    def loop(w, i):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ w[0].T @ w[0]), i[0])

    run_split(loop, [weight], [np.ones((2, 32), np.float32)])


def test_zero_size_arrays():
    run_split(lambda w, i: w[0].T @ i[0], [np.zeros((0, 3), np.float32)], [np.zeros((0, 2), np.float32)])
