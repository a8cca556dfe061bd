import threading

import jax
import numpy as np
import pytest

from kopt.hardware import Target
from kopt.ir.graph import Graph, Value
from kopt.ir.types import DType, TensorType
from kopt.targets.xla import XlaBackend
from kopt.targets.xla_staging import MAX_BYTES, staged

CPU = jax.devices("cpu")[0]


def types(*arrays):
    return [TensorType(DType.from_numpy(array.dtype), array.shape) for array in arrays]


@pytest.mark.parametrize(
    "arrays",
    [
        [np.arange(4, dtype=np.float32)],
        [np.arange(6.0).reshape(2, 3), np.array([[1]], np.int64)],
        [np.array(3, np.int32), np.array([True, False]), np.arange(5, dtype=np.float16)],
    ],
)
def test_small_inputs_arrive_unchanged(arrays):
    with jax.enable_x64(True):
        call = staged(jax.jit(lambda *given: list(given)), types(*arrays), CPU)
        for shift in range(3):
            given = [array ^ True if array.dtype == bool and shift else (array + shift).astype(array.dtype) for array in arrays]
            for found, expected in zip(call(*given), given, strict=True):
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)


def test_earlier_results_stay():
    call = staged(jax.jit(lambda x: [x, x + 1]), [TensorType(DType.F32, (8,))], CPU)
    first = [np.asarray(array) for array in call(np.zeros(8, np.float32))]
    [array.block_until_ready() for array in call(np.full(8, 5, np.float32))]
    np.testing.assert_array_equal(first, [np.zeros(8), np.ones(8)])


def test_a_program_that_returns_its_input_returns_a_copy():
    x = Value("x", TensorType(DType.F32, (8,)))
    backend = XlaBackend()
    executable = backend.compile(backend.lower(Graph("same", (x,), (x,), ()), Target.parse("cpu")))
    first = np.asarray(executable.dispatch(np.zeros(8, np.float32))[0])
    np.asarray(executable.dispatch(np.ones(8, np.float32))[0])
    np.testing.assert_array_equal(first, np.zeros(8))


@pytest.mark.parametrize("shape", [(0, 4), (MAX_BYTES // 4 + 1,)])
def test_empty_and_large_inputs_are_not_staged(shape):
    def call(x):
        return [x]

    assert staged(call, [TensorType(DType.F32, shape)], CPU) is call
    assert staged(call, [], CPU) is call


def test_threads_have_buffers_of_their_own():
    call = staged(jax.jit(lambda x: [x * 2]), [TensorType(DType.F32, (16,))], CPU)
    differing = []

    def work(number):
        x = np.full(16, number, np.float32)
        differing.extend(number for _ in range(200) if not np.array_equal(np.asarray(call(x)[0]), 2 * x))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differing == []
