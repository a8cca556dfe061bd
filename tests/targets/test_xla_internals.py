"""The contract with jaxlib's internals: each use of them, alone, on whatever JAX is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kopt.errors import ToolchainError
from kopt.targets import xla_internals


@pytest.fixture
def device():
    return jax.devices("cpu")[0]


@pytest.fixture
def compiled():
    struct = jax.ShapeDtypeStruct((3, 4), np.float32)
    return jax.jit(lambda x: (jnp.dot(x, x.T), x.sum())).lower(struct).compile()


def test_the_native_tier_is_available():
    assert xla_internals.native_tier_available() is None


def test_raw_code_round_trips_without_pickle(compiled, device):
    code = xla_internals.serialize(compiled)
    assert code[:2] != b"\x80\x04"
    call = xla_internals.fast_call(
        xla_internals.deserialize(code, device), [xla_internals.shaped_array((3, 4), np.float32)], device, "test"
    )
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for _ in range(3):  # the first call fills the C++ cache, later ones come from it
        product, total = call(x)
        np.testing.assert_allclose(product, x @ x.T)
        assert float(total) == 66


def test_a_fast_call_keeps_64_bit_types_inside_the_x64_scope(device):
    with jax.enable_x64(True):
        compiled = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((2,), np.int64)).compile()
        call = xla_internals.fast_call(compiled.runtime_executable(), [xla_internals.shaped_array((2,), np.int64)], device, "test")
        for _ in range(2):
            (result,) = call(np.array([2**40, -1]))
            assert result.dtype == np.int64
            assert np.asarray(result).tolist() == [2**40 + 1, 0]


def test_refused_code_is_a_toolchain_error(device):
    with pytest.raises(ToolchainError, match="refuses the stored executable"):
        xla_internals.deserialize(b"not an executable", device)


def test_a_jaxpr_can_be_rebuilt_from_its_equations():
    traced = jax.make_jaxpr(lambda x: jnp.sin(x) * 2)(np.ones(3, np.float32))
    rebuilt = xla_internals.closed_jaxpr(traced.jaxpr.invars, traced.jaxpr.outvars, traced.jaxpr.eqns)
    (result,) = jax.jit(jax.extend.core.jaxpr_as_fun(rebuilt))(np.ones(3, np.float32))
    np.testing.assert_allclose(result, np.sin(np.ones(3)) * 2, rtol=1e-6)


def test_variables_are_fresh_and_drop_variables_are_known():
    aval = xla_internals.shaped_array((2,), np.float32)
    assert xla_internals.fresh_var(aval) is not xla_internals.fresh_var(aval)
    assert not xla_internals.is_drop_var(xla_internals.fresh_var(aval))
