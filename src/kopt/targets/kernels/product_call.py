"""Products of traced arrays through the product kernel: packing weights, choosing the tiling, the meaning in plain JAX."""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.hardware import Target
from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.kernel import Epilogue, lanes
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.strassen import STEPS, Strassen
from kopt.targets.kernels.tiling import product_tiling
from kopt.targets.lowering.activation import activated

MIN_MULTIPLIES = 1 << 16
"""Products of fewer multiplications are left to XLA, which fuses them with their neighbours."""


def can_multiply(rows: int, depth: int, columns: int, target: Target) -> bool:
    """Whether the kernel is worth its call."""
    return columns >= lanes(target) and rows > 0 and depth > 0 and rows * depth * columns >= MIN_MULTIPLIES


def multiply(calls: KernelCalls, x: Any, w: Any, bias: Any | None, residual: Any | None, epilogue: Epilogue) -> Any:
    """epilogue(x @ w).  x: f32 (..., K), w: f32 (K, N), bias: f32 (N,) or None, residual: like the result or None."""
    rows, (depth, columns) = prod(x.shape[:-1]), w.shape
    tiling = product_tiling(rows, depth, columns, lanes(calls.target), calls.target.num_cores)
    kernel = calls.scheduled(Product(rows, depth, columns, tiling, epilogue))
    operands = [x.reshape(rows, depth), packed(kernel, w)]
    operands += [] if bias is None else [bias]
    operands += [] if residual is None else [residual.reshape(rows, columns)]
    chosen = strassen_meaning if isinstance(kernel, Strassen) else meaning
    return calls.call(kernel, operands, chosen).reshape(*x.shape[:-1], columns)


def packed(kernel: Product | Strassen, w: Any) -> Any:
    """The weights as a kernel reads them.  w: f32 (K, N)."""
    if isinstance(kernel, Product):
        return pack(w, kernel.tiling.panel)
    halves = (slice(0, kernel.k // 2), slice(kernel.k // 2, None)), (slice(0, kernel.n // 2), slice(kernel.n // 2, None))

    def combined(quarters: Any) -> Any:
        (row, column, _), *rest = quarters
        first = w[halves[0][row], halves[1][column]]
        return reduce(lambda total, one: total + one[2] * w[halves[0][one[0]], halves[1][one[1]]], rest, first)

    join = np.stack if isinstance(w, np.ndarray) else jnp.stack
    return join([pack(combined(quarters), kernel.tiling.panel) for _, quarters, _ in STEPS])


def pack(w: Any, panel: int) -> Any:
    """(K, N) ==> (panels, K, panel); the last panel ends with the matrix and overlaps the one before."""
    depth, columns = w.shape
    whole = columns // panel
    packed = w[:, : whole * panel].reshape(depth, whole, panel).transpose(1, 0, 2)
    join = np.concatenate if isinstance(w, np.ndarray) else jnp.concatenate
    return packed if columns % panel == 0 else join([packed, w[None, :, columns - panel :]])


def unpack(packed: Any, columns: int) -> Any:
    """The inverse of ``pack``."""
    panels, depth, panel = packed.shape
    whole = columns // panel
    w = packed[:whole].transpose(1, 0, 2).reshape(depth, whole * panel)
    return w if columns % panel == 0 else jnp.concatenate([w, packed[panels - 1, :, whole * panel - columns :]], 1)


def meaning(kernel: Product, x: Any, packed: Any, *rest: Any) -> Any:
    """The kernel in plain JAX."""
    return finished(kernel.epilogue, x @ unpack(packed, kernel.n), *rest)


def strassen_meaning(kernel: Strassen, x: Any, packed: Any, *rest: Any) -> Any:
    """Strassen's product in plain JAX: the quarters of w are recovered from their sums."""
    half = kernel.n // 2
    m2, m3, m4, m5 = (unpack(packed[k], half) for k in (1, 2, 3, 4))  # B11, B12 - B22, B21 - B11, B22
    w = jnp.concatenate([jnp.concatenate([m2, m3 + m5], 1), jnp.concatenate([m4 + m2, m5], 1)])
    return finished(kernel.epilogue, x @ w, *rest)


def finished(epilogue: Epilogue, y: Any, *rest: Any) -> Any:
    """Bias, residual and activation in plain JAX.  y: f32 (..., channels)."""
    y = y + rest[0] if epilogue.bias else y
    y = y + rest[-1] if epilogue.residual else y
    limits = (epilogue.low, epilogue.high) if epilogue.activation == "Clip" else ()
    return activated(epilogue.activation, y, limits)
