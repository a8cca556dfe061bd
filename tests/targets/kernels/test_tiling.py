import random

import pytest

from kopt.targets.kernels.tiling import FORMS, REGISTERS, ProductTiling, product_space, product_tiling

SIZES = [(m, k, n) for m in (1, 2, 7, 13, 197, 3136) for k in (1, 64, 4608) for n in (16, 17, 31, 50, 1000, 3072)]


def fits(m, n, lanes, tiling):
    """A tile within the product, whole vectors, and accumulators that leave registers for the operands."""
    assert 1 <= tiling.rows <= m
    assert lanes <= tiling.panel <= n
    assert tiling.panel % lanes == 0
    vectors = tiling.panel // lanes
    assert tiling.rows * vectors + vectors < REGISTERS[lanes]
    assert tiling.row_tasks >= 1
    assert 1 <= tiling.panel_tasks <= -(-n // tiling.panel)


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("cores", [1, 2, 64])
def test_the_default_fits_and_no_task_is_empty(lanes, cores):
    for m, k, n in SIZES:
        tiling = product_tiling(m, k, n, lanes, cores)
        fits(m, n, lanes, tiling)
        tiles = -(-m // tiling.rows)
        chunk = -(-tiles // tiling.row_tasks)
        assert (tiling.row_tasks - 1) * chunk < tiles


def test_large_products_keep_every_core_busy():
    for m, k, n in ((197, 768, 3072), (3136, 64, 256), (1, 2048, 1000)):
        tiling = product_tiling(m, k, n, 16, 2)
        assert tiling.row_tasks * tiling.panel_tasks >= 4


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_the_space_holds_the_default_and_fitting_tilings_alone(lanes):
    for m, k, n in SIZES[::5]:
        space = product_space(m, k, n, lanes, 2)
        default = product_tiling(m, k, n, lanes, 2)
        assert ProductTiling(**space.default()) == default
        for point in space.sample_distinct(random.Random(0), 20):
            assert point in space
            fits(m, n, lanes, ProductTiling(**point))


@pytest.mark.parametrize("lanes", REGISTERS)
def test_every_size_has_a_form(lanes):
    """One row and one vector of columns is the least that is asked for."""
    assert (1, 1) in FORMS
    assert product_tiling(1, 1, lanes, lanes, 1).rows == 1
