"""Matrix products. Narrow floats accumulate in f32; on the CPU that is also the only fast form of bf16."""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.targets.lowering.registry import Array, LoweringContext, lowers


def dot(a: Array, b: Array) -> Array:
    """A @ b in a's dtype; 16-bit floats accumulate in f32."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.dtype.itemsize == 2 and jnp.issubdtype(a.dtype, jnp.floating):
        return jnp.matmul(a, b, preferred_element_type=np.float32).astype(a.dtype)
    return jnp.matmul(a, b).astype(a.dtype)


@lowers("MatMul")
def matmul(ctx: LoweringContext, a: Array, b: Array) -> Array:
    """Numpy's matmul. A batch of rows against one matrix is one product of all rows, which keeps both cores busy."""
    if b.ndim == 2 and a.ndim > 2:
        return dot(a.reshape(prod(a.shape[:-1]), a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[-1])
    return dot(a, b)


@lowers("Gemm")
def gemm(ctx: LoweringContext, a: Array, b: Array, c: Array | None = None) -> Array:
    """Alpha * op(A) @ op(B) + beta * C.  A: (M, K), B: (K, N), C: broadcast to (M, N). Source: ONNX Gemm-13."""
    a = a.T if ctx.attr("transA") else a
    b = b.T if ctx.attr("transB") else b
    y = _scaled(dot(a, b), ctx.attr("alpha"))
    return y if c is None else y + _scaled(jnp.asarray(c), ctx.attr("beta"))


def _scaled(x: Array, factor: float) -> Array:
    return x if factor == 1 else (x * np.asarray(factor)).astype(x.dtype)


@lowers("Einsum")
def einsum(ctx: LoweringContext, *arrays: Array) -> Array:
    """The equation, spaces removed."""
    kind: Any = np.float32 if arrays[0].dtype.itemsize == 2 and jnp.issubdtype(arrays[0].dtype, jnp.floating) else arrays[0].dtype
    equation = str(ctx.attr("equation")).replace(" ", "")
    return jnp.einsum(equation, *map(jnp.asarray, arrays), preferred_element_type=kind).astype(arrays[0].dtype)


def integer_dot(a: Array, b: Array) -> Array:
    """A @ b of 8-bit integers of either sign, exactly, in i32."""
    return jnp.matmul(a.astype(np.int32), b.astype(np.int32), preferred_element_type=np.int32)


def less_zero_point(x: Array, zero: Array | None, axis: int) -> Array:
    """X - zero_point in i32; a vector of zero points runs along ``axis``."""
    wide = jnp.asarray(x).astype(np.int32)
    if zero is None:
        return wide
    zero = jnp.asarray(zero).astype(np.int32)
    if zero.ndim == 1 and zero.size > 1:
        shape = [1] * wide.ndim
        shape[axis] = zero.size
        zero = zero.reshape(shape)
    elif zero.size == 1:
        zero = zero.reshape(())
    return wide - zero


@lowers("MatMulInteger")
def matmul_integer(ctx: LoweringContext, a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Array:
    """(A - a_zero) @ (B - b_zero) in i32. Zero points per row of A and per column of B."""
    return integer_dot(less_zero_point(a, a_zero, a.ndim - 2), less_zero_point(b, b_zero, b.ndim - 1))


@lowers("Det")
def det(ctx: LoweringContext, x: Array) -> Array:
    """Determinant of the last two axes."""
    return jnp.linalg.det(x).astype(x.dtype)
