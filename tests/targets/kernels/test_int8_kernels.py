"""Kernels on 8-bit integers against exact numpy, with marked surroundings, their tasks in any order, and their meaning in JAX."""

import random
from dataclasses import replace

import jax
import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.targets.kernels.narrow import has_instruction
from kopt.targets.kernels.tiling import product_space
from kopt.targets.lowering.walk import run_graph
from support.int8 import Case, check, drawn, node, result_shape
from support.kernels import NATIVE, V3, Compiled, Recorded

pytestmark = pytest.mark.skipif(not has_instruction("u8", NATIVE), reason="this CPU has no VNNI")

SAME = {"pads": (1, 1, 1, 1)}
PRODUCTS = [
    Case((37, 131), (131, 50)),
    Case((2, 3, 41, 64), (64, 48), "i8", "i8", "f32", "Relu"),
    Case((1, 2050), (2050, 40), "u8", "u8", "u8", "Relu"),
    Case((65, 64), (64, 17), "u8", "u8", "i8", "Relu", exact=True),
    Case((65, 63), (63, 33), "i8", "i8", "", exact=True),
    Case((64, 129), (129, 16), "u8", "u8", zero=None),
    Case((64, 129), (129, 16), "i8", "i8", "i8", zero=(-128, 127, -128)),
    Case((64, 129), (129, 16), "u8", "u8", "u8", zero=(255, 255, 255)),
    Case((9, 4099), (4099, 19), "u8", "f32", zero=(128, 0, 0)),
    Case((64, 40), (40, 64), "u8", "i8", "", "Gelu"),
    Case((64, 40), (40, 64), "i8", "f32", "u8", "Clip", (-0.5, 0.75)),
    Case((64, 40), (40, 64), "u8", "i8", "f32", "Tanh"),
    Case((64, 40), (40, 64), bias=False),
]
CONVOLUTIONS = [
    Case((1, 15, 13, 3), (24, 3, 7, 7), "u8", "u8", "", "Relu", window={"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    Case((2, 9, 8, 5), (19, 5, 3, 3), "i8", "i8", "i8", "Relu", window=SAME, zero=(-100, 3, 5)),
    Case((2, 9, 8, 16), (16, 16, 3, 3), "u8", "u8", "u8", "Relu", window=SAME, exact=True),
    Case((1, 14, 14, 33), (50, 33, 3, 3), "i8", "i8", window={**SAME, "strides": (2, 2)}, exact=True),
    Case((1, 6, 7, 4), (17, 4, 3, 2), "u8", "f32", "f32", "Clip", window={"pads": (0, 1, 1, 0), "dilations": (2, 1)}),
    Case((1, 9, 11, 6), (18, 6, 3, 3), "u8", "u8", "u8", window={"pads": (2, 3, 2, 3), "dilations": (2, 3)}, zero=(200, 9, 1)),
    Case((2, 14, 15, 12), (40, 12, 1, 1), "u8", "u8", zero=(255, 0, 255)),
    Case((1, 8, 9, 8), (32, 8, 1, 1), "i8", "u8", window={"strides": (2, 3)}),
    Case((1, 5, 6, 8), (16, 8, 2, 3), "u8", "i8", window={"pads": (0, 0, 1, 2)}, zero=None),
]


@pytest.fixture(scope="module")
def made():
    """Every case with the kernel it calls, some with other tilings of the same space; all compiled in one library."""
    rng, found = np.random.default_rng(7), []
    for case in (*PRODUCTS, *CONVOLUTIONS):
        given = drawn(case, rng)
        found += [(case, given, kernel, operands, meaning) for kernel, operands, meaning in recorded(case, given)]
    assert len(found) == len(PRODUCTS) + len(CONVOLUTIONS)
    return found, Compiled([kernel for _, _, kernel, _, _ in found])


def recorded(case, given, target=NATIVE):
    """What the node's lowering calls."""
    b, calls = Builder(), Recorded(target)
    y, inputs, arrays = node(b, case, given)
    with jax.enable_x64(True):
        run_graph(b.graph("one", inputs, [y]), arrays, options={"kernel_calls": calls, "device": "cpu"})
    return calls.made


def test_results_are_those_of_exact_arithmetic(made):
    for case, given, kernel, operands, _ in made[0]:
        check(case, given, made[1](kernel, operands).reshape(result_shape(case)))


def test_the_plain_meaning_agrees(made):
    for case, given, kernel, operands, meaning in made[0]:
        check(case, given, np.asarray(meaning(kernel, *operands)).reshape(result_shape(case)))


def test_the_order_of_tasks_changes_nothing(made):
    for _, _, kernel, operands, _ in made[0]:
        tasks = list(range(kernel.num_tasks))
        np.testing.assert_array_equal(made[1](kernel, operands, tasks), made[1](kernel, operands, tasks[::-1]))


def test_other_tilings_give_the_same_integers(made):
    rng, found = random.Random(0), []
    for case, given, kernel, operands, _ in made[0][: len(PRODUCTS)]:
        space = product_space(kernel.m, kernel.words, kernel.n, 16, 2)
        tilings = [type(kernel.tiling)(**point) for point in space.sample_distinct(rng, 3)]
        same = [tiling for tiling in tilings if tiling.panel == kernel.tiling.panel]  # the weights are packed for it
        found += [(case, given, replace(kernel, tiling=tiling), operands) for tiling in same]
    assert len(found) > 5
    run = Compiled([kernel for _, _, kernel, _ in found])
    for case, given, kernel, operands in found:
        check(case, given, run(kernel, operands).reshape(result_shape(case)))


def test_other_processors_call_no_kernel():
    for case in (PRODUCTS[0], CONVOLUTIONS[0]):
        assert not recorded(case, drawn(case, np.random.default_rng(0)), V3)
