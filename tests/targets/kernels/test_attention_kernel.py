"""The attention kernel against f64, over sizes, masks, shared heads and tilings."""

from __future__ import annotations

import random
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kopt.targets.kernels.attention import Attention, AttentionTiling, attention_tiling
from kopt.targets.kernels.attention_call import attend, meaning
from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.choice import MAX_TURNED_BYTES
from kopt.targets.kernels.kernel import lanes
from support.kernels import NATIVE, TARGETS, Compiled

# batch, queries, keys, heads, kv heads, size, value size, mask without its last axis
SIZES = [
    *((1, 8, 16, 2, 2, 16, 16, ()), (2, 7, 33, 4, 2, 24, 40, (2, 1, 7)), (1, 1, 1, 1, 1, 1, 16, ())),
    *((3, 5, 17, 2, 1, 8, 17, (1, 2, 1)), (1, 13, 48, 3, 3, 64, 64, (1, 1, 13)), (2, 6, 100, 2, 2, 5, 33, (2, 2, 6))),
    *((1, 19, 15, 1, 1, 32, 80, (1, 1, 1)), (1, 2, 31, 6, 3, 3, 16, ())),
]


def kernels_of(lanes):
    """Every size with the default tiling and with two others."""
    rng, kernels = random.Random(lanes), []
    for batch, queries, keys, heads, kv_heads, size, value_size, mask in SIZES:
        padded = -(-keys // lanes)
        default = attention_tiling(queries, keys, value_size, batch * heads, lanes, 2)
        kernel = Attention(batch, queries, keys, heads, kv_heads, size, value_size, size**-0.5, mask, lanes, default)
        kernels.append(kernel)
        for _ in range(2):
            across = rng.choice([v for v in (1, 2, 3) if v <= padded]) * lanes
            panel = rng.choice([v for v in (1, 2) if v * lanes <= value_size]) * lanes
            rows = rng.choice([r for r in (1, 2, 4) if r <= queries])
            kernels.append(replace(kernel, tiling=AttentionTiling(rows, across, panel, rng.choice((1, 2, 3, 5)))))
    return kernels


@pytest.fixture(scope="module", params=TARGETS)
def built(request):
    kernels = kernels_of(lanes(request.param))
    return kernels, Compiled(kernels, request.param)


def operands(kernel, rng):
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in kernel.operands]
    if kernel.mask:
        arrays[3][rng.random(arrays[3].shape) < 0.3] = -np.inf
        arrays[3][..., kernel.keys :] = -np.inf
    return arrays


def attended(kernel, q, k, v, *mask):
    """In f64, with zeros for rows that see nothing."""

    def split(x, heads):
        x = x.astype(np.float64).reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        return np.repeat(x, kernel.heads // heads, 1)

    q, k, v = split(q, kernel.heads), split(k, kernel.kv_heads), split(v, kernel.kv_heads)
    scores = q @ k.swapaxes(-1, -2) * kernel.scale
    scores = scores + mask[0][..., : kernel.keys] if mask else scores
    with np.errstate(all="ignore"):
        weights = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e300))
        total = weights.sum(-1, keepdims=True)
        weights = np.where(total == 0, 0, weights / total)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(kernel.result)


def test_against_f64(built):
    kernels, run = built
    for index, kernel in enumerate(kernels):
        arrays = operands(kernel, np.random.default_rng(index))
        wanted = attended(kernel, *arrays)
        np.testing.assert_allclose(run(kernel, arrays), wanted, rtol=0, atol=4e-6 * max(1, abs(wanted).max()), err_msg=str(kernel))


def test_meaning_is_what_the_kernel_computes(built):
    kernels, _ = built
    for index, kernel in enumerate(kernels):
        arrays = operands(kernel, np.random.default_rng(index))
        found = np.asarray(meaning(kernel, *map(jnp.asarray, arrays)))
        np.testing.assert_allclose(found, attended(kernel, *arrays), rtol=0, atol=1e-5)


def test_rows_that_see_nothing_are_zero_and_the_largest_scores_do_not_overflow(built):
    kernels, run = built
    kernel = next(each for each in kernels if each.mask == (2, 1, 7))
    arrays = operands(kernel, np.random.default_rng(5))
    arrays[0] *= 1000
    arrays[3][1, 0, 3] = -np.inf
    found = run(kernel, arrays)
    assert np.isfinite(found).all()
    assert not found[1, 3].any()
    np.testing.assert_allclose(found, attended(kernel, *arrays), rtol=0, atol=2e-3)


def test_nan_stays_in_its_rows(built):
    kernels, run = built
    kernel = next(each for each in kernels if each.queries == 8)
    arrays = operands(kernel, np.random.default_rng(6))
    arrays[0][0, 2, :16] = np.nan
    found = run(kernel, arrays).reshape(8, 2, 16)
    assert np.isnan(found[2, 0]).all()
    assert np.isfinite(np.delete(found.reshape(16, 16), 4, 0)).all()


@pytest.mark.parametrize(
    ("shapes", "mask"),
    [
        (((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 2)), None),  # values narrower than a vector
        (((1, 3, 4, 8), (1, 2, 4, 8), (1, 2, 4, 32)), None),  # heads that cannot be shared
        (((1, 1, 4, 1024), (1, 1, MAX_TURNED_BYTES // 4096 + 16, 1024), (1, 1, MAX_TURNED_BYTES // 4096 + 16, 32)), None),
        (((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 32)), (4, 1)),  # a mask that is broadcast over the keys
        (((1, 2, 0, 8), (1, 2, 4, 8), (1, 2, 4, 32)), None),
    ],
)
def test_what_the_kernel_does_not_take(shapes, mask):
    q, k, v = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
    given = None if mask is None else jnp.zeros(mask, np.float32)
    assert attend(KernelCalls(NATIVE), q, k, v, given, 1.0) is None
