"""Kernels inside traced JAX programs.

A call is one primitive that is lowered in one of two ways: as a custom call of the compiled kernel, or, in portable programs,
as what the kernel means in plain JAX of the same (packed) operands. Both programs therefore take the same weights.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
import jax.ffi
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from kopt.errors import ToolchainError
from kopt.hardware import Target
from kopt.targets.kernels.kernel import Kernel, result_dtype, symbol
from kopt.targets.kernels.schedule import Schedules, scheduled

Meaning = Callable[..., Any]

_portable: ContextVar[bool] = ContextVar("kopt_portable", default=False)
_registered: dict[str, ctypes.CDLL] = {}


@contextmanager
def portable() -> Iterator[None]:
    """Within this scope programs are lowered without kernels."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


class KernelCalls:
    """The kernels that one program calls.

    Attributes:
        target: what they are compiled for.
        schedules: found by searches.
        kernels: by symbol.
        calls: by symbol, how often the program calls each.
        count: calls by kind of kernel.
    """

    def __init__(self, target: Target, schedules: Schedules | None = None) -> None:
        self.target = target
        self.schedules = dict(schedules or {})
        self.calls: Counter[str] = Counter()
        self.kernels: dict[str, Kernel] = {}
        self.count: Counter[str] = Counter()

    def scheduled(self, kernel: Kernel) -> Any:
        """The kernel that a search found for this work, or the kernel itself."""
        return scheduled(kernel, self.schedules, self.target)

    def call(self, kernel: Kernel, operands: Sequence[Any], meaning: Meaning) -> Any:
        """The kernel's result on traced ``operands``.

        Args:
            kernel: a hashable description.
            operands: arrays of ``kernel.operands`` shapes, f32 unless the kernel says otherwise.
            meaning: the same in JAX, a module-level function of (kernel, *operands).
        """
        name = symbol(kernel, self.target)
        self.kernels[name] = kernel
        self.calls[name] += 1
        self.count[type(kernel).__name__] += 1
        return kernel_call.bind(*(jnp.asarray(array) for array in operands), kernel=kernel, name=name, meaning=meaning)


kernel_call = Primitive("kopt_kernel")


def _evaluate(*operands: Any, kernel: Kernel, name: str, meaning: Meaning) -> Any:
    del name
    return meaning(kernel, *operands)


def _shape(*operands: Any, kernel: Kernel, name: str, meaning: Meaning) -> Any:
    del operands, name, meaning
    return jax.core.ShapedArray(kernel.result, result_dtype(kernel))


def _lowered(*operands: Any, kernel: Kernel, name: str, meaning: Meaning) -> Any:
    if _portable.get():
        return meaning(kernel, *operands)
    return jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(kernel.result, result_dtype(kernel)))(*operands)


kernel_call.def_impl(_evaluate)
kernel_call.def_abstract_eval(_shape)
mlir.register_lowering(kernel_call, mlir.lower_fun(_lowered, multiple_results=False), cacheable=False)


def register(names: Sequence[str], library: bytes) -> None:
    """Load a library of ``build_library`` and make its kernels known to XLA; kernels known already are left as they are.

    Raises:
        ToolchainError: the library cannot be loaded here.
    """
    fresh = [name for name in names if name not in _registered]
    if not fresh:
        return
    with tempfile.TemporaryDirectory(prefix="kopt-kernels-") as folder:
        path = Path(folder) / "kernels.so"
        path.write_bytes(library)
        try:
            loaded = ctypes.CDLL(str(path))
            handlers = {name: getattr(loaded, name) for name in fresh}
        except (OSError, AttributeError) as error:
            raise ToolchainError(f"the stored kernels cannot be loaded: {error}", next_step="compile the model again") from error
    for name, handler in handlers.items():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
        _registered[name] = loaded
