"""kopt's product with what follows it: through a kernel where the program may call kernels, else in plain JAX."""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import KOPT
from kopt.targets.lowering.activation import gelu
from kopt.targets.lowering.matmul import dot
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@lowers("Product", domain=KOPT)
def product(ctx: LoweringContext, x: Array, w: Array, bias: Array | None = None, residual: Array | None = None) -> Array:
    """activation(x @ w + bias + residual).  x: (..., K), w: (K, N), or (N, K) with ``transB``."""
    x, w = jnp.asarray(x), jnp.asarray(w)
    w = w.T if ctx.attr("transB") else w
    rows = prod(x.shape[:-1])
    if calls_kernel(ctx, x):
        from kopt.targets.kernels import product_call

        calls = ctx.options["kernel_calls"]
        if product_call.can_multiply(rows, *w.shape, calls.target):
            return product_call.multiply(calls, x, w, bias, residual, epilogue_of(ctx, bias, residual))
    y = dot(x.reshape(rows, x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[-1])
    return finish(ctx, y, bias, residual)


def calls_kernel(ctx: LoweringContext, x: Array) -> bool:
    """Whether the program may call kernels, which take f32 alone."""
    return ctx.options.get("kernel_calls") is not None and x.dtype == np.float32


def epilogue_of(ctx: LoweringContext, bias: Array | None, residual: Array | None) -> Any:
    """The node's bias, residual and activation as kernels take them."""
    from kopt.targets.kernels.kernel import Epilogue

    low, high = ctx.attr("activation_params") or (0.0, 0.0)
    return Epilogue(bias is not None, residual is not None, str(ctx.attr("activation")), float(low), float(high))


def finish(ctx: LoweringContext, y: Array, bias: Array | None, residual: Array | None) -> Array:
    """Bias, residual and activation in plain JAX."""
    y = y if bias is None else y + jnp.asarray(bias).astype(y.dtype)
    y = y if residual is None else y + residual
    name = str(ctx.attr("activation"))
    if name == "Clip":
        return jnp.clip(y, *(np.asarray(limit, y.dtype) for limit in ctx.attr("activation_params")))
    functions: dict[str, Any] = {
        "": lambda v: v,
        "Relu": lambda v: jnp.maximum(v, jnp.zeros((), v.dtype)),
        "Gelu": gelu,
        "GeluTanh": lambda v: gelu(v, "tanh"),
        "Tanh": jnp.tanh,
    }
    return functions[name](y)  # type: ignore[no-any-return]
