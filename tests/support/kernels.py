"""Running compiled kernels without XLA: their C functions on buffers with marked surroundings."""

from __future__ import annotations

import ctypes
import random
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kopt.hardware import ISA_LEVELS, Target, cpu_features
from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.kernel import Epilogue, Kernel, result_dtype, symbol
from kopt.targets.kernels.library import build_library

NATIVE = Target.parse("cpu")
V3 = Target("cpu", NATIVE.arch, NATIVE.num_cores, NATIVE.memory_bytes, NATIVE.features, isa="x86-64-v3")
needs_v3 = pytest.mark.skipif(not ISA_LEVELS["x86-64-v3"] <= cpu_features(), reason="this CPU has no AVX2")
TARGETS = [pytest.param(NATIVE, id="native"), pytest.param(V3, marks=needs_v3, id="v3")]
"""Targets every kernel is compiled for: the widest vectors of this processor, and AVX2."""

EPILOGUES = (
    Epilogue(),
    Epilogue(bias=True),
    Epilogue(residual=True),
    Epilogue(bias=True, residual=True),
    Epilogue(activation="Relu"),
    Epilogue(bias=True, activation="Relu"),
    Epilogue(bias=True, residual=True, activation="Relu"),
    Epilogue(activation="Clip", low=-0.5, high=0.75),
    Epilogue(bias=True, activation="Clip", low=0.0, high=6.0),
    Epilogue(activation="Clip", low=float("-inf"), high=0.5),
    Epilogue(activation="Clip", low=-0.25, high=float("inf")),
    Epilogue(bias=True, activation="Gelu"),
    Epilogue(residual=True, activation="Gelu"),
    Epilogue(bias=True, activation="GeluTanh"),
    Epilogue(bias=True, residual=True, activation="Tanh"),
    Epilogue(activation="Tanh"),
)

_MARGIN = 64
_MARK = np.float32(-12345.678)


class Compiled:
    """Many kernels in one library, called through their C functions.

    Args:
        kernels: equal ones are compiled once.
        target: what they are compiled for.
    """

    def __init__(self, kernels: Iterable[Kernel], target: Target = NATIVE) -> None:
        self._target = target
        named = {symbol(kernel, target): kernel for kernel in kernels}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernels.so")
            path.write_bytes(build_library(named, target))
            self._library = ctypes.CDLL(str(path))

    def __call__(self, kernel: Kernel, operands: Sequence[np.ndarray], order: Sequence[int] | None = None) -> np.ndarray:
        """The kernel's result, its tasks run in ``order`` (default: shuffled).

        NaN lies around the operands, so that reading beside them shows in the values; what lies around the result must stay.
        """
        assert [array.shape for array in operands] == list(kernel.operands)
        given = [_surrounded(array, _beside(array.dtype)) for array in operands]
        before = [whole.copy() for whole, _ in given]
        dtype = result_dtype(kernel)
        mark = dtype.type(_MARK if dtype.itemsize > 1 else 77)
        result, inner = _surrounded(np.full(kernel.result, _beside(dtype), dtype), mark)
        body = getattr(self._library, f"{symbol(kernel, self._target)}_body")
        tasks = list(range(kernel.num_tasks))
        random.Random(0).shuffle(tasks)
        pointers = [ctypes.c_void_p(view.ctypes.data) for _, view in (*given, (result, inner))]
        for task in tasks if order is None else order:
            body(*pointers, ctypes.c_int(task))
        for (whole, _), kept in zip(given, before, strict=True):
            assert whole.tobytes() == kept.tobytes(), "an operand was overwritten"
        size = inner.size
        assert (result[:_MARGIN] == mark).all(), "written before the result"
        assert (result[_MARGIN + size :] == mark).all(), "written behind the result"
        return inner.copy()


def _beside(dtype: np.dtype) -> Any:
    """NaN, or an integer that sums would show."""
    return dtype.type(np.nan) if dtype.kind in "fV" else dtype.type(85)


def _surrounded(array: np.ndarray, mark: Any) -> tuple[np.ndarray, np.ndarray]:
    """(a flat array with ``mark`` on both sides, the view of the middle)."""
    whole = np.full(array.size + 2 * _MARGIN, mark, array.dtype)
    middle = whole[_MARGIN : _MARGIN + array.size].reshape(array.shape)
    middle[...] = array
    return whole, middle


class Recorded(KernelCalls):
    """Keeps every call's kernel, operands and meaning instead of making it."""

    def __init__(self, target: Target = NATIVE) -> None:
        super().__init__(target)
        self.made: list[tuple[Any, list[np.ndarray], Any]] = []

    def call(self, kernel: Any, operands: Sequence[Any], meaning: Any) -> Any:
        """Zeros of the result's shape."""
        self.made.append((kernel, [np.asarray(array) for array in operands], meaning))
        return np.zeros(kernel.result, result_dtype(kernel))


def finished(epilogue: Epilogue, y: np.ndarray, *rest: np.ndarray) -> np.ndarray:
    """Bias, residual and activation in f64."""
    from scipy.special import erf

    y = y.astype(np.float64)
    y = y + rest[0] if epilogue.bias else y
    y = y + rest[-1] if epilogue.residual else y
    with np.errstate(all="ignore"):
        if epilogue.activation == "Relu":
            return np.maximum(y, 0)
        if epilogue.activation == "Clip":
            return np.clip(y, epilogue.low, epilogue.high)
        if epilogue.activation == "Gelu":
            return y / 2 * (1 + erf(y / np.sqrt(2)))
        if epilogue.activation == "GeluTanh":
            return y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        return np.tanh(y) if epilogue.activation == "Tanh" else y


def others(kernel: Kernel, rng: np.random.Generator) -> list[np.ndarray]:
    """Random bias and residual as far as the kernel takes any."""
    return [rng.standard_normal(shape).astype(np.float32) for shape in kernel.operands[2:]]
