"""LSTM, GRU and RNN: the input's products are one matmul over all steps, the rest is a scan. 16-bit floats compute in f32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.lowering.registry import Array, LoweringContext, lowers

_Function = Callable[[Array], Array]

# Name -> (defaults of alpha and beta as far as the function has them, function). Source: ONNX RNN-22.
_ACTIVATIONS: dict[str, tuple[tuple[float, ...], Callable[..., Array]]] = {
    "affine": ((1.0, 0.0), lambda x, a, b: a * x + b),
    "elu": ((1.0,), lambda x, a: jnp.where(x > 0, x, a * jnp.expm1(x))),
    "hardsigmoid": ((0.2, 0.5), lambda x, a, b: jnp.clip(a * x + b, 0, 1)),
    "leakyrelu": ((0.01,), lambda x, a: jnp.where(x >= 0, x, a * x)),
    "relu": ((), lambda x: jnp.maximum(x, 0)),
    "scaledtanh": ((1.0, 1.0), lambda x, a, b: a * jnp.tanh(b * x)),
    "sigmoid": ((), jax.nn.sigmoid),
    "softplus": ((), jax.nn.softplus),
    "softsign": ((), lambda x: x / (1 + jnp.abs(x))),
    "tanh": ((), jnp.tanh),
    "thresholdedrelu": ((1.0,), lambda x, a: jnp.where(x > a, x, 0)),
}


@dataclass(frozen=True)
class _Direction:
    """What one direction computes with.  w: (G * H, I), r: (G * H, H), b: (2 * G * H,), p: (3 * H,) or None."""

    w: Array
    r: Array
    b: Array
    p: Array | None
    functions: tuple[_Function, ...]
    backwards: bool


def _functions(ctx: LoweringContext, default: Sequence[str], directions: int) -> list[tuple[_Function, ...]]:
    """The activations of each direction; alphas and betas go, in order, to those that have them."""
    names = [str(name) for name in ctx.attr("activations") or tuple(default) * directions]
    names = names[: len(default) * directions]  # the default of RNN is for two directions
    if len(names) != len(default) * directions:
        raise ctx.unsupported(f"{len(names)} activations where {len(default) * directions} are needed")
    alphas, betas = iter(ctx.attr("activation_alpha") or ()), iter(ctx.attr("activation_beta") or ())
    chosen: list[_Function] = []
    size = len(default)
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise ctx.unsupported(f"there is no activation '{name}'")
        defaults, function = _ACTIVATIONS[name.lower()]
        own = [next(values, default) for values, default in zip((alphas, betas), defaults, strict=False)]
        # ONNX Runtime clips what enters the gates, not the cell state that the third activation of an LSTM reads
        chosen.append(_clipped(ctx.attr("clip") if len(chosen) % size < 2 else None, function, own))
    return [tuple(chosen[k * size : (k + 1) * size]) for k in range(directions)]


def _clipped(limit: float | None, function: Callable[..., Array], own: Sequence[float]) -> _Function:
    """The activation with its alpha and beta, on inputs within ``limit``."""
    return lambda x: function(x if limit is None else jnp.clip(x, -limit, limit), *own)


def _directions(ctx: LoweringContext, arrays: Sequence[Array | None], default: Sequence[str], kind: Any) -> list[_Direction]:
    """From W, R, B and P, each with a leading axis of directions."""
    w, r, b, p = (None if array is None else jnp.asarray(array).astype(kind) for array in arrays)
    if w is None or r is None:
        raise ctx.unsupported("W or R is absent")
    way = str(ctx.attr("direction"))
    functions = _functions(ctx, default, w.shape[0])
    return [
        _Direction(
            w[k],
            r[k],
            jnp.zeros(2 * w.shape[1], kind) if b is None else b[k],
            None if p is None else p[k],
            functions[k],
            way == "reverse" or k == 1,
        )
        for k in range(w.shape[0])
    ]


_Step = Callable[[_Direction, Array, tuple[Array, ...]], tuple[Array, ...]]


def _run(direction: _Direction, x: Array, lengths: Array | None, state: tuple[Array, ...], step: _Step) -> tuple[tuple[Array, ...], Array]:
    """All steps of one direction.

    Args:
        direction: weights and activations.
        x: (T, B, I).
        lengths: (B,) or None; past its length a sequence keeps its state and gives zeros.
        state: initial values, each (B, H); the first is what the layer gives.
        step: (direction, (B, G * H) products of the input, state) -> next state.
    """
    products = jnp.einsum("tbi,gi->tbg", x, direction.w)

    def one(state: tuple[Array, ...], row: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
        product, time = row
        following = step(direction, product, state)
        if lengths is None:
            return following, following[0]
        alive = (time < lengths)[:, None]
        kept = tuple(jnp.where(alive, new, old) for new, old in zip(following, state, strict=True))
        return kept, jnp.where(alive, following[0], 0)

    times = jnp.arange(x.shape[0], dtype=np.int32)
    final, rows = lax.scan(one, state, (products, times), reverse=direction.backwards)
    return final, rows


def _layer(
    ctx: LoweringContext, x: Array, weights: Sequence[Array | None], default: Sequence[str], lengths: Array | None, starts: Any, step: _Step
) -> tuple[Array, ...]:
    """Y and the final states, one per entry of ``starts``, in the layout the node asks for."""
    x = jnp.asarray(x)
    dtype, batch_first = x.dtype, bool(ctx.attr("layout"))
    kind = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    x = (jnp.swapaxes(x, 0, 1) if batch_first else x).astype(kind)
    directions = _directions(ctx, weights, default, kind)
    shape = (len(directions), x.shape[1], directions[0].r.shape[-1])
    held = []
    for start in starts:
        if start is None:
            held.append(jnp.zeros(shape, kind))
        else:
            held.append((jnp.swapaxes(start, 0, 1) if batch_first else jnp.asarray(start)).astype(kind))
    results = []
    for k, direction in enumerate(directions):
        results.append(_run(direction, x, None if lengths is None else jnp.asarray(lengths), tuple(start[k] for start in held), step))
    y = jnp.stack([rows for _, rows in results], 1)  # (T, directions, B, H)
    finals = [jnp.stack([state[k] for state, _ in results]) for k in range(len(starts))]
    if batch_first:
        y, finals = jnp.transpose(y, (2, 0, 1, 3)), [jnp.swapaxes(final, 0, 1) for final in finals]
    return tuple(result.astype(dtype) for result in (y, *finals))


@lowers("RNN")
def rnn(ctx: LoweringContext, x: Array, w: Array, r: Array, b: Any = None, lengths: Any = None, h: Any = None) -> tuple[Array, ...]:
    """H = f(X W' + H R' + Wb + Rb). Source: ONNX RNN-22."""

    def step(direction: _Direction, product: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        size = direction.r.shape[-1]
        return (direction.functions[0](product + state[0] @ direction.r.T + direction.b[:size] + direction.b[size:]),)

    return _layer(ctx, x, (w, r, b, None), ("Tanh",), lengths, (h,), step)


@lowers("GRU")
def gru(ctx: LoweringContext, x: Array, w: Array, r: Array, b: Any = None, lengths: Any = None, h: Any = None) -> tuple[Array, ...]:
    """Gates z, r, h; ``linear_before_reset`` applies the reset gate after the product. Source: ONNX GRU-22."""
    linear = bool(ctx.attr("linear_before_reset"))

    def step(direction: _Direction, product: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        f, g = direction.functions
        (old,) = state
        size = old.shape[-1]
        own, back = direction.b[: 3 * size], direction.b[3 * size :]
        product = product + own
        gates = product[:, : 2 * size] + old @ direction.r[: 2 * size].T + back[: 2 * size]
        update, reset = f(gates[:, :size]), f(gates[:, size:])
        last, bias = direction.r[2 * size :].T, back[2 * size :]
        inner = reset * (old @ last + bias) if linear else (reset * old) @ last + bias
        return ((1 - update) * g(product[:, 2 * size :] + inner) + update * old,)

    return _layer(ctx, x, (w, r, b, None), ("Sigmoid", "Tanh"), lengths, (h,), step)


@lowers("LSTM")
def lstm(
    ctx: LoweringContext, x: Array, w: Array, r: Array, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None, p: Any = None
) -> tuple[Array, ...]:
    """Gates i, o, f, c; peepholes i, o, f. Source: ONNX LSTM-22."""
    return lstm_layer(ctx, x, (w, r, b, p), lengths, (h, c), narrowed=lambda state: state)


def lstm_layer(
    ctx: LoweringContext, x: Array, weights: Sequence[Array | None], lengths: Any, starts: tuple[Any, Any], *, narrowed: _Function
) -> tuple[Array, ...]:
    """An LSTM whose state enters products as ``narrowed`` makes it.

    Args:
        ctx: the node.
        x: (seq, batch, width).
        weights: W, R, B and P.
        lengths: (batch,) or None.
        starts: initial state and cell, or None.
        narrowed: rounds the state to what a product of few bits takes.
    """
    coupled = bool(ctx.attr("input_forget"))

    def step(direction: _Direction, product: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        f, g, last = direction.functions
        old, cell = state
        size = old.shape[-1]
        gates = product + narrowed(old) @ direction.r.T + direction.b[: 4 * size] + direction.b[4 * size :]
        into, out, forget, new = (gates[:, k * size : (k + 1) * size] for k in range(4))
        if direction.p is not None:
            into, forget = into + direction.p[:size] * cell, forget + direction.p[2 * size :] * cell
        into = f(into)
        cell = (1 - into if coupled else f(forget)) * cell + into * g(new)
        if direction.p is not None:
            out = out + direction.p[size : 2 * size] * cell
        return f(out) * last(cell), cell

    return _layer(ctx, x, weights, ("Sigmoid", "Tanh", "Tanh"), lengths, starts, step)
