"""Kernels on bf16 against f64, with NaN around their operands, their tasks in any order, and their meaning in JAX."""

import ml_dtypes
import numpy as np
import pytest

from kopt.targets.kernels import bf16_call
from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.kernel import Epilogue
from kopt.targets.kernels.narrow import has_instruction
from support.kernels import NATIVE, V3, Compiled, Recorded, finished

pytestmark = pytest.mark.skipif(not has_instruction("bf16", NATIVE), reason="this CPU has no AVX512-BF16")

BF16 = ml_dtypes.bfloat16
# rows, terms, columns, result, residual, epilogue
PRODUCTS = [
    (37, 131, 50, "f32", None, Epilogue()),
    (41, 64, 48, "bf16", None, Epilogue(bias=True, activation="Gelu")),
    (1, 1001, 80, "bf16", "bf16", Epilogue(bias=True, residual=True, activation="Relu")),
    (64, 63, 33, "f32", "bf16", Epilogue(residual=True)),
    (65, 64, 17, "f32", "f32", Epilogue(bias=True, residual=True, activation="Tanh")),
    (64, 129, 16, "bf16", "f32", Epilogue(residual=True, activation="Clip", low=-0.5, high=0.75)),
    (9, 4099, 19, "f32", None, Epilogue(bias=True)),
]
# image, outputs, result, residual, epilogue
CONVOLUTIONS = [
    (Image(1, 15, 13, 3, 8, 7, (7, 7), (2, 2), pads=(3, 3)), 24, "bf16", None, Epilogue(bias=True, activation="Relu")),
    (Image(2, 9, 8, 5, 9, 8, (3, 3), pads=(1, 1)), 19, "bf16", "bf16", Epilogue(bias=True, residual=True, activation="Relu")),
    (Image(1, 6, 7, 4, 2, 7, (3, 2), dilations=(2, 1), pads=(0, 1)), 17, "f32", "f32", Epilogue(residual=True)),
    (Image(1, 9, 11, 6, 9, 11, (3, 3), dilations=(2, 3), pads=(2, 3)), 18, "f32", None, Epilogue()),
    (Image(2, 8, 9, 8, 4, 3, (1, 1), (2, 3)), 32, "bf16", "f32", Epilogue(bias=True, residual=True, activation="Clip", low=0.0, high=6.0)),
]


def normal(rng, shape, kind="bf16"):
    return rng.standard_normal(shape).astype(BF16 if kind == "bf16" else np.float32)


def extras(rng, shape, residual, epilogue):
    bias = normal(rng, shape[-1:], "f32") if epilogue.bias else None
    return bias, normal(rng, shape, residual) if residual else None


def convolution(image, x, weight):
    """In f64."""
    (kh, kw), wide = image.kernel, np.zeros(image.output(weight.shape[0]))
    below = [image.needed_rows(image.out_height), image.needed_width]
    pads = [(before, max(0, need - size - before)) for before, need, size in zip(image.pads, below, x.shape[1:3], strict=True)]
    x = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)])
    for i in range(kh):
        for j in range(kw):
            top, left = i * image.dilations[0], j * image.dilations[1]
            rows = slice(top, top + (image.out_height - 1) * image.strides[0] + 1, image.strides[0])
            columns = slice(left, left + (image.out_width - 1) * image.strides[1] + 1, image.strides[1])
            wide += x[:, rows, columns] @ weight[:, :, i, j].astype(np.float64).T
    return wide


def recorded(target=NATIVE):
    """(the call, what f64 says, terms of a sum) of every case."""
    rng, made = np.random.default_rng(3), []
    for m, k, n, result, residual, epilogue in PRODUCTS:
        x, w, rest, calls = normal(rng, (m, k)), normal(rng, (k, n)), extras(rng, (m, n), residual, epilogue), Recorded(target)
        bf16_call.multiply(calls, x, w, rest, result, epilogue)
        sums = x.astype(np.float64) @ w.astype(np.float64)
        made.append((calls.made, expected(epilogue, sums, rest), k))
    for image, outputs, result, residual, epilogue in CONVOLUTIONS:
        x, weight = normal(rng, image.input), normal(rng, (outputs, image.channels, *image.kernel))
        rest, calls = extras(rng, image.output(outputs), residual, epilogue), Recorded(target)
        bf16_call.convolve(calls, x, weight, image, rest, result, epilogue)
        made.append((calls.made, expected(epilogue, convolution(image, x, weight), rest), image.channels * weight[0, 0].size))
    return made


def expected(epilogue, sums, rest):
    return finished(epilogue, sums, *(array.astype(np.float64) for array in rest if array is not None))


@pytest.fixture(scope="module")
def made():
    found = recorded()
    return found, Compiled([kernel for calls, _, _ in found for kernel, _, _ in calls])


def close(kernel, got, expected, terms):
    """To the rounding of sums in f32, and of the result."""
    assert got.dtype == (BF16 if kernel.formats.result == "bf16" else np.float32)
    relative = 2.0**-8 if kernel.formats.result == "bf16" else 1e-6
    np.testing.assert_allclose(got.astype(np.float64), expected, atol=2e-6 + 2e-7 * terms, rtol=relative, err_msg=str(kernel))


def test_results_are_those_of_wide_sums(made):
    for ((kernel, operands, _),), expected, terms in made[0]:
        close(kernel, made[1](kernel, operands), expected, terms)


def test_the_plain_meaning_agrees(made):
    for ((kernel, operands, meaning),), expected, terms in made[0]:
        close(kernel, np.asarray(meaning(kernel, *operands)), expected, terms)


def test_the_order_of_tasks_changes_nothing(made):
    for ((kernel, operands, _),), _, _ in made[0]:
        tasks = list(range(kernel.num_tasks))
        np.testing.assert_array_equal(made[1](kernel, operands, tasks), made[1](kernel, operands, tasks[::-1]))


def test_nan_and_infinities_pass_through(made):
    ((kernel, operands, _),), _, _ = made[0][2]
    x, *rest = operands
    for value in (np.nan, np.inf):
        spoiled = x.copy()
        spoiled[0, 5] = value
        got = made[1](kernel, [spoiled, *rest]).astype(np.float32)
        assert np.isnan(got).all() if np.isnan(value) else np.isinf(got).any()


def test_other_processors_call_no_kernel():
    assert not any(calls for calls, _, _ in recorded(V3))
