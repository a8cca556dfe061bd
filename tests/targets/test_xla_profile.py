import jax
import jax.numpy as jnp
import numpy as np

from kopt.targets.xla_profile import node_times_ns


def test_time_is_told_by_node_name():
    def program(x):
        with jax.named_scope("big"):
            y = x @ x
        with jax.named_scope("sort"):
            return jnp.sort(y, axis=-1)

    x = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    compiled = jax.jit(program).lower(x).compile()
    times = node_times_ns(lambda: compiled(x).block_until_ready(), compiled.as_text(), runs=2)
    assert {"big", "sort"} <= set(times)
    assert all(time > 0 for time in times.values())
    assert list(times.values()) == sorted(times.values(), reverse=True)
