"""kopt's product with what follows it: through a kernel where the program may call kernels, else in plain JAX."""

from __future__ import annotations

from math import prod

import jax.numpy as jnp

from kopt.ir.graph import KOPT
from kopt.targets.lowering.conv import activate
from kopt.targets.lowering.kernel_calls import multiplied
from kopt.targets.lowering.matmul import dot
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@lowers("Product", domain=KOPT)
def product(ctx: LoweringContext, x: Array, w: Array, bias: Array | None = None, residual: Array | None = None) -> Array:
    """activation(x @ w + bias + residual).  x: (..., K), w: (K, N), or (N, K) with ``transB``."""
    x, w = jnp.asarray(x), jnp.asarray(w)
    w = w.T if ctx.attr("transB") else w
    y = multiplied(ctx, x, w, bias, residual)
    if y is not None:
        return y
    y = dot(x.reshape(prod(x.shape[:-1]), x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[-1])
    y = y if bias is None else y + jnp.asarray(bias).astype(y.dtype)
    return activate(ctx, y if residual is None else y + residual)
