"""Child process that prints what XLA reaches on this machine: the rate of a float32 matrix product, and of reading main memory.

As JSON: ``{"gflops": 217.4, "gbytes_per_s": 31.9}``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def main(size: int = 1024, num_values: int = 32 << 20, seconds: float = 0.5) -> dict[str, float]:
    """The best of many timings of a ``size`` x ``size`` x ``size`` product, and of the maximum of an array too large for caches."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(jnp.matmul).lower(a, a).compile()
    gflops = 2 * size**3 / _best_s(lambda: product(a, a).block_until_ready(), seconds) / 1e9
    long = jnp.zeros(num_values, jnp.float32)
    largest = jax.jit(jnp.max).lower(long).compile()
    gbytes = long.nbytes / _best_s(lambda: largest(long).block_until_ready(), seconds) / 1e9
    return {"gflops": round(gflops, 1), "gbytes_per_s": round(gbytes, 2)}


def _best_s(call: Callable[[], object], seconds: float) -> float:
    """The shortest of the timings that fit, after one call that does not count."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()) + "\n")
