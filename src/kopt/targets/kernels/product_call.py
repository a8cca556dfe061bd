"""Products of traced arrays through the product kernel: packing weights, choosing the tiling, the meaning in plain JAX."""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp

from kopt.hardware import Target
from kopt.targets.kernels.calls import KernelCalls
from kopt.targets.kernels.kernel import Epilogue, lanes
from kopt.targets.kernels.packing import packed_matrix, unpack
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.strassen import Strassen
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
    operands = [x.reshape(rows, depth), packed_matrix(kernel, w)]
    operands += [] if bias is None else [bias]
    operands += [] if residual is None else [residual.reshape(rows, columns)]
    chosen = strassen_meaning if isinstance(kernel, Strassen) else meaning
    return calls.call(kernel, operands, chosen).reshape(*x.shape[:-1], columns)


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
