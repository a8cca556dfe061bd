"""kopt's inverted residual block: one kernel where the program may call kernels and it pays, else layer by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from kopt.ir.graph import KOPT, Attr
from kopt.targets.lowering.conv import Window, fused_conv_nhwc
from kopt.targets.lowering.kernel_calls import inverted
from kopt.targets.lowering.registry import Array, LoweringContext, lowers

_WINDOW = ("auto_pad", "dilations", "pads", "strides")


@lowers("InvertedResidual", domain=KOPT)
def inverted_residual(
    ctx: LoweringContext,
    x: Array,
    first: Array | None,
    first_bias: Array | None,
    filters: Array,
    slide_bias: Array | None,
    last: Array,
    last_bias: Array | None = None,
) -> Array:
    """See ``kopt.ir.inverted_types``."""
    x, filters, last = jnp.asarray(x), jnp.asarray(filters), jnp.asarray(last)
    first = None if first is None else jnp.asarray(first)
    window = Window.of(ctx, x.shape[1:-1], filters.shape[2:])
    inner, outer = layer_context(ctx, {}), layer_context(ctx, {}, "last_")
    y = inverted(inner, outer, x, (first, first_bias, filters, slide_bias, last, last_bias), window)
    if y is not None:
        return y
    wide = x if first is None else fused_conv_nhwc(inner, x, first, first_bias)
    sliding = {name: ctx.node.attrs[name] for name in _WINDOW if name in ctx.node.attrs}
    slid = fused_conv_nhwc(layer_context(ctx, {**sliding, "group": filters.shape[0]}), wide, filters, slide_bias)
    return fused_conv_nhwc(outer, slid, last, last_bias, x if ctx.attr("residual", 0) else None)


def layer_context(ctx: LoweringContext, attrs: dict[str, Attr], prefix: str = "") -> LoweringContext:
    """The context of a layer of the block as a FusedConvNhwc: its own attributes, and the activation of that prefix."""
    names = ("activation", "activation_params")
    own: dict[str, Any] = {"residual": ctx.attr("residual", 0)} | {
        name: ctx.node.attrs[prefix + name] for name in names if prefix + name in ctx.node.attrs
    }
    return replace(ctx, node=ctx.node.replace(attrs={"group": 1, "auto_pad": "NOTSET", **attrs, **own}))
