"""What a kernel is: shapes in, shape out, a loop nest, and the name under which programs call it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from kopt.hardware import Target

ACTIVATIONS = ("", "Relu", "Clip", "Gelu", "GeluTanh", "Tanh")
"""What a kernel can apply to its result."""

REVISION = 2
"""Raised when a loop nest changes, so that programs stored with older kernels keep calling theirs."""


@dataclass(frozen=True)
class Epilogue:
    """What follows a product or convolution, in this order: bias, residual, activation.

    Attributes:
        bias: a number per output channel is added.
        residual: an array of the output's shape is added.
        activation: a name of ACTIVATIONS, applied last.
        low: lower limit of "Clip".
        high: upper limit of "Clip".
    """

    bias: bool = False
    residual: bool = False
    activation: str = ""
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, activation: str, params: Sequence[float] | None, *, bias: bool, residual: bool) -> Epilogue | None:
        """What follows a node with these attributes; None for an activation that kernels do not have."""
        if activation not in ACTIVATIONS:
            return None
        low, high = (params or (0.0, 0.0)) if activation == "Clip" else (0.0, 0.0)
        return cls(bias, residual, activation, float(low), float(high))

    def operands(self, result: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Shapes of bias and residual, as far as there are any, for a result of shape (..., channels)."""
        return (*((result[-1:],) if self.bias else ()), *((result,) if self.residual else ()))


class Kernel(Protocol):
    """One compiled function of arrays with one result, f32 unless it says otherwise; a frozen dataclass of whatever its code depends on."""

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the arrays it reads, in order."""
        ...

    @property
    def result(self) -> tuple[int, ...]:
        """Shape of what it writes."""
        ...

    @property
    def multiplies(self) -> int:
        """Multiplications, a measure of its time."""
        ...

    @property
    def num_tasks(self) -> int:
        """Pieces that may run at the same time."""
        ...


def result_dtype(kernel: Kernel) -> np.dtype[Any]:
    """Element type of a kernel's result: f32 where it says nothing else in ``result_type``."""
    named: dict[str, Any] = {"f32": np.float32, "u8": np.uint8, "i8": np.int8, "bf16": ml_dtypes.bfloat16}
    found: np.dtype[Any] = np.dtype(named[getattr(kernel, "result_type", "f32")])
    return found


def lanes(target: Target) -> int:
    """F32 elements of a vector register of the target.

    Source: 512-, 256- and 128-bit registers of AVX-512, AVX and NEON.
    """
    features = target.required_features
    return 16 if "avx512f" in features else 8 if "avx2" in features else 4


def symbol(kernel: Kernel, target: Target) -> str:
    """The name of a kernel for a target: equal for equal code."""
    parts = [REVISION, type(kernel).__name__, asdict(kernel), lanes(target), sorted(target.required_features)]  # type: ignore[call-overload]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"kopt_{digest[:32]}"
