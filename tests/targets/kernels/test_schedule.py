"""Schedules: every kernel's space has its default, its points compute the same, and what a search found is taken."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace

import numpy as np
import pytest

from kopt.errors import UsageError
from kopt.targets.kernels import alone
from kopt.targets.kernels.attention import Attention, attention_tiling
from kopt.targets.kernels.conv import Conv, Depthwise, Image
from kopt.targets.kernels.conv_tiling import conv_tiling, depthwise_tiling, winograd_tiling
from kopt.targets.kernels.kernel import Epilogue, lanes
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.schedule import Schedule, implementations, scheduled, space_of, tiled, workload_of
from kopt.targets.kernels.tiling import product_tiling
from kopt.targets.kernels.winograd import Winograd
from support.kernels import TARGETS, Compiled

IMAGE = Image(2, 9, 7, 20, 9, 7, (3, 3), pads=(1, 1))
STRIDED = Image(1, 11, 11, 18, 6, 6, (3, 3), (2, 2), pads=(1, 1))


def kernels(target):
    """One of every kind, of odd sizes."""
    width, cores = lanes(target), target.num_cores
    both = Epilogue(bias=True, residual=True, activation="Relu")
    return [
        Product(19, 23, 37, product_tiling(19, 23, 37, width, cores), Epilogue(bias=True, activation="Gelu")),
        Product(45, 132, 70, product_tiling(45, 132, 70, width, cores), both),  # also by Strassen's algorithm
        Product(32, 256, 64, product_tiling(32, 256, 64, width, cores), Epilogue(bias=True, activation="Tanh")),
        Conv(STRIDED, 21, conv_tiling(STRIDED, 21, width, cores)[1], both),
        Winograd(IMAGE, 24, winograd_tiling(IMAGE, 24, width, cores)[1], both),
        Depthwise(STRIDED, depthwise_tiling(STRIDED, width, cores), Epilogue(activation="Clip", low=0.0, high=float("inf"))),
        Attention(1, 13, 21, 4, 2, 8, 20, 0.5, (1, 1, 13), width, attention_tiling(13, 21, 20, 4, width, cores)),
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_every_point_of_a_space_computes_the_same(target) -> None:
    rng = random.Random(0)
    wanted, candidates = {}, []
    for kernel in kernels(target):
        for one in implementations(kernel, target).values():
            space = space_of(one, target)
            assert tiled(one, space.default()) == one
            points = [one, *(tiled(one, config) for config in space.sample_distinct(rng, 6))]
            candidates += points
            assert {workload_of(point) for point in points} == {workload_of(kernel)}
        wanted[workload_of(kernel).digest] = alone.reference(kernel)
    run = Compiled(candidates, target)
    for candidate in candidates:
        found = run(candidate, list(alone.operands(candidate)))
        reference = wanted[workload_of(candidate).digest]
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=2e-5 * np.abs(reference).max(), err_msg=str(candidate))


@pytest.mark.parametrize("target", TARGETS)
def test_a_schedule_is_taken_for_its_work_only(target) -> None:
    kernel = kernels(target)[0]
    config = next(iter(space_of(kernel, target).neighbours(space_of(kernel, target).default())))
    schedules = {workload_of(kernel).digest: Schedule("Product", config)}
    assert scheduled(kernel, schedules, target) == tiled(kernel, config) != kernel
    wider = replace(kernel, k=24)
    assert scheduled(wider, schedules, target) is wider
    assert scheduled(kernel, {}, target) is kernel


@pytest.mark.parametrize("target", TARGETS)
def test_products_that_can_be_halved_have_strassens_form(target) -> None:
    width = lanes(target)

    def names(m, k, n):
        return set(implementations(Product(m, k, n, product_tiling(m, k, n, width, 2)), target))

    assert names(45, 132, 70) == {"Product", "Strassen"}
    assert names(45, 133, 70) == names(45, 132, 71) == names(7, 132, 70) == names(45, 20, 70) == {"Product"}


def test_rows_that_two_tasks_share_have_one_value() -> None:
    """Of an odd number of rows the middle one belongs to both halves; whatever the order of tasks, the result is the same."""
    target = TARGETS[0].values[0]
    kernel = implementations(kernels(target)[1], target)["Strassen"]
    kernel = tiled(kernel, {**asdict(kernel.tiling), "block": kernel.tiling.rows, "panel_tasks": kernel.panels})
    run = Compiled([kernel], target)
    given = list(alone.operands(kernel))
    orders = [list(range(kernel.num_tasks)), list(range(kernel.num_tasks))[::-1], None]
    first, *others = (run(kernel, given, order) for order in orders)
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("target", TARGETS)
def test_winograd_and_the_direct_form_do_the_same_work(target) -> None:
    direct = Conv(IMAGE, 24, conv_tiling(IMAGE, 24, lanes(target), 2)[1])
    choices = implementations(direct, target)
    assert set(choices) == {"Conv", "Winograd"}
    schedules = {workload_of(direct).digest: Schedule("Winograd", space_of(choices["Winograd"], target).default())}
    assert isinstance(scheduled(direct, schedules, target), Winograd)
    strided = Conv(STRIDED, 24, conv_tiling(STRIDED, 24, lanes(target), 2)[1])
    assert set(implementations(strided, target)) == {"Conv"}


@pytest.mark.parametrize("config", [{}, {"rows": 1}, {"rows": 999, "panel": 16, "unroll": 4, "row_tasks": 1, "panel_tasks": 1}])
def test_a_schedule_of_another_version_is_left(config) -> None:
    target = TARGETS[0].values[0]
    kernel = kernels(target)[0]
    assert scheduled(kernel, {workload_of(kernel).digest: Schedule("Product", config)}, target) is kernel
    assert scheduled(kernel, {workload_of(kernel).digest: Schedule("Other", config)}, target) is kernel


def test_schedules_survive_json() -> None:
    schedule = Schedule("Conv", {"rows": 2, "panel": 32})
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    with pytest.raises(UsageError, match="not a schedule"):
        Schedule.from_json({"config": 3})


def test_infinite_limits_have_a_workload() -> None:
    target = TARGETS[0].values[0]
    kernel = kernels(target)[5]
    assert workload_of(kernel).attrs["epilogue"]["high"] == "inf"
    assert workload_of(kernel) != workload_of(replace(kernel, epilogue=Epilogue(activation="Clip", low=0.0, high=6.0)))
