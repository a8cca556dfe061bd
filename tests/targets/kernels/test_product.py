import random

import numpy as np
import pytest

from kopt.targets.kernels.kernel import Epilogue, lanes
from kopt.targets.kernels.packing import pack, unpack
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.product_call import meaning
from kopt.targets.kernels.tiling import ProductTiling, product_space, product_tiling
from support.kernels import EPILOGUES, TARGETS, Compiled, finished, others

PRODUCTS = [
    *((1, 1, 16), (1, 769, 1000), (2, 3, 17), (2, 64, 50), (7, 769, 31), (7, 1, 48), (13, 64, 1000), (13, 3, 16)),
    *((197, 3, 50), (197, 64, 48), (197, 1, 17), (64, 64, 64)),
]
ODD = Epilogue(bias=True, residual=True, activation="Relu")


def sampled(lanes):
    """Every size with tilings of its search space; an epilogue each, and every epilogue somewhere."""
    rng = random.Random(lanes)
    kernels = []
    for m, k, n in PRODUCTS:
        space = product_space(m, k, n, lanes, 2)
        for point in (space.default(), *space.sample_distinct(rng, 3)):
            kernels.append(Product(m, k, n, ProductTiling(**point), EPILOGUES[len(kernels) % len(EPILOGUES)]))
    return kernels


def overshooting(lanes):
    """Tilings with tasks that begin beyond the last tile or panel."""
    n = 5 * lanes + 3
    return [
        Product(13, 5, n, ProductTiling(4, lanes, 2, 3, 1), ODD),
        Product(13, 5, n, ProductTiling(2, lanes, 4, 5, 4), ODD),
        Product(13, 5, n, ProductTiling(4, 2 * lanes, 8, 16, 3), ODD),
        Product(13, 5, n, ProductTiling(1, lanes, 1, 32, 64), ODD),
        Product(7, 9, n, ProductTiling(7, lanes, 4, 8, 5), ODD),
        Product(13, 5, n, ProductTiling(1, lanes, 1, 32, 64, 1), ODD),
        Product(13, 5, n, ProductTiling(2, lanes, 4, 5, 4, 1), ODD),
    ]


def every_epilogue(lanes):
    return [Product(5, 33, 3 * lanes + 1, product_tiling(5, 33, 3 * lanes + 1, lanes, 2), epilogue) for epilogue in EPILOGUES]


def pure(lanes):
    """One row, one term: the epilogue of the second operand alone."""
    epilogues = [Epilogue(activation=name, low=-1.0, high=2.0) for name in ("", "Relu", "Clip", "Gelu", "GeluTanh", "Tanh")]
    return [Product(1, 1, lanes, ProductTiling(1, lanes, 1, 1, 1), epilogue) for epilogue in epilogues]


def kernels_of(lanes):
    return [*sampled(lanes), *overshooting(lanes), *every_epilogue(lanes), *pure(lanes)]


@pytest.fixture(scope="module", params=TARGETS)
def built(request):
    return lanes(request.param), Compiled(kernels_of(lanes(request.param)), request.param)


def operands(kernel, rng):
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((kernel.m, kernel.k), (kernel.k, kernel.n)))
    return x, w, others(kernel, rng)


def check(kernel, run, rng):
    x, w, rest = operands(kernel, rng)
    expected = finished(kernel.epilogue, x.astype(np.float64) @ w.astype(np.float64), *rest)
    got = run(kernel, [x, np.asarray(pack(w, kernel.tiling.panel)), *rest])
    # rounding errors of a sum of k normal terms grow like a random walk over partial sums of size sqrt(k)
    np.testing.assert_allclose(got, expected, atol=2e-6 + 2e-7 * kernel.k, rtol=1e-6, err_msg=str(kernel))


def test_sampled_tilings(built, rng):
    for kernel in sampled(built[0]):
        check(kernel, built[1], rng)


def test_tasks_beyond_the_last_tile(built, rng):
    for kernel in overshooting(built[0]):
        check(kernel, built[1], rng)


def test_every_epilogue(built, rng):
    for kernel in every_epilogue(built[0]):
        check(kernel, built[1], rng)


def test_the_order_of_tasks_changes_nothing(built, rng):
    kernel = overshooting(built[0])[2]
    x, w, rest = operands(kernel, rng)
    given = [x, np.asarray(pack(w, kernel.tiling.panel)), *rest]
    tasks = list(range(kernel.num_tasks))
    np.testing.assert_array_equal(built[1](kernel, given, tasks), built[1](kernel, given, tasks[::-1]))


def test_the_plain_meaning_agrees(built, rng):
    for kernel in every_epilogue(built[0]):
        x, w, rest = operands(kernel, rng)
        given = [x, np.asarray(pack(w, kernel.tiling.panel)), *rest]
        np.testing.assert_allclose(built[1](kernel, given), meaning(kernel, *given), atol=1e-5, rtol=1e-5)


def applied(built, values):
    """Every activation on the same numbers, and what f64 says."""
    lanes, run = built
    padded = np.resize(np.asarray(values, np.float32), -(-len(values) // lanes) * lanes).reshape(-1, lanes)
    for kernel in pure(lanes):
        rows = [run(kernel, [np.ones((1, 1), np.float32), row.reshape(1, 1, lanes)]) for row in padded]
        yield kernel.epilogue, padded, np.concatenate(rows), finished(kernel.epilogue, padded)


def test_nan_and_infinities_pass_through(built):
    values = [np.nan, np.inf, -np.inf, -np.nan, 0.0, -0.0, 1.0, np.nan]
    for epilogue, _, got, expected in applied(built, values):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=epilogue.activation)
        np.testing.assert_array_equal(np.isinf(got), np.isinf(expected), err_msg=epilogue.activation)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_nan_in_a_sum_spoils_its_row_and_no_other(built, rng):
    kernel = every_epilogue(built[0])[6]
    assert kernel.epilogue.activation == "Relu"
    x, w, rest = operands(kernel, rng)
    x[2, 7] = np.nan
    got = built[1](kernel, [x, np.asarray(pack(w, kernel.tiling.panel)), *rest])
    assert np.isnan(got[2]).all()
    assert np.isfinite(np.delete(got, 2, axis=0)).all()


def test_activations_over_their_whole_range(built, rng):
    values = np.concatenate([np.linspace(-12, 12, 1001), [-1e30, -1e6, -1e4, -500, 500, 1e4, 1e6, 1e30, 1e-30, -1e-30]])
    for epilogue, given, got, expected in applied(built, values):
        # far to the left a Gelu is zero, and must not grow with its argument
        np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1.5e-6, err_msg=epilogue.activation)
        if epilogue.activation == "Tanh":
            assert (np.abs(got) <= 1).all()
            np.testing.assert_array_equal(np.sign(got), np.sign(given))


@pytest.mark.parametrize(("depth", "columns", "panel"), [(1, 16, 16), (3, 17, 16), (5, 50, 16), (5, 50, 48), (2, 1000, 64), (0, 16, 16)])
def test_packing_is_undone(depth, columns, panel, rng):
    w = rng.standard_normal((depth, columns)).astype(np.float32)
    packed = np.asarray(pack(w, panel))
    assert packed.shape == (-(-columns // panel), depth, panel)
    np.testing.assert_array_equal(unpack(packed, columns), w)
