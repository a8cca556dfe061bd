"""Derivatives of a part of the model. Source: ai.onnx.preview.training Gradient-1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kopt.ir.graph import KOPT
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@lowers("Gradient", domain=KOPT)
def gradient(ctx: LoweringContext, *inputs: Array) -> tuple[Array, ...]:
    """The derivatives of the sum of the body's result by its first ``count`` inputs."""
    body, count = ctx.attr("body"), int(ctx.attr("count"))
    captures = {value: ctx.captures[value] for value in body.captures}
    rest = tuple(jnp.asarray(x) for x in inputs[count:])

    def result(*xs: Array) -> Array:
        return ctx.evaluate(body, (*xs, *rest), captures)[0]

    y, derivatives = jax.vjp(result, *(jnp.asarray(x) for x in inputs[:count]))
    return tuple(derivatives(jnp.ones_like(y)))[: ctx.num_outputs]
