"""Splits a traced program into what depends on weights alone and what depends on inputs.

::

    f(weights, inputs)   ==>   packed = pack(weights)     evaluated once, when compiling
                               g(packed, inputs)          the program that is compiled

Lowerings may therefore transpose, cast, fold or Winograd-transform a weight wherever that is natural to write: none of it
stays in the program. Broadcasts and other operations that only grow their operand are left in, since XLA fuses them into
their readers for nothing while storing their results would cost memory traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from kopt.ir.constant import aligned_copy
from kopt.targets import xla_internals as internals

_INLINED = frozenset({"pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint"})
_GROWTH_LIMIT = 2  # a weight-only result more than this many times its operands' bytes is recomputed in the program
_SMALL_BYTES = 1024  # ... unless it is this small, when storing it costs nothing


@dataclass(frozen=True)
class Split:
    """The program of the inputs, and the packed weights it takes before them.

    Attributes:
        program: jaxpr of (packed..., inputs...).
        packed: the arrays, in order.
        origins: for each packed array the position of the weight it is unchanged, or None where it was computed.
    """

    program: ClosedJaxpr
    packed: tuple[np.ndarray, ...]
    origins: tuple[int | None, ...]


def split(traced: ClosedJaxpr, weights: Sequence[np.ndarray]) -> Split:
    """Evaluate every weight-only part of ``traced``, whose first arguments are ``weights``.

    Args:
        traced: jaxpr of (weights..., inputs...).
        weights: values of its first arguments; shapes and dtypes as traced.
    """
    eqns, outputs, constants = _flatten(traced)
    invars = traced.jaxpr.invars
    known: dict[Any, Any] = dict(zip(invars[: len(weights)], weights, strict=True)) | constants
    origin = {var: index for index, var in enumerate(invars[: len(weights)])}
    early, late = _partition(eqns, known)
    needed = {var for eqn in late for var in eqn.invars if not isinstance(var, internals.Literal)}
    needed |= {var for var in outputs if not isinstance(var, internals.Literal)}
    needed -= {out for eqn in late for out in eqn.outvars}
    stored = [var for var in dict.fromkeys((*known, *(out for eqn in early for out in eqn.outvars))) if var in needed]
    values = _evaluate(early, known, set(stored))
    program = internals.closed_jaxpr([*stored, *invars[len(weights) :]], outputs, late)
    return Split(program, tuple(values[var] for var in stored), tuple(origin.get(var) for var in stored))


def _flatten(traced: ClosedJaxpr) -> tuple[list[Any], list[Any], dict[Any, Any]]:
    """All equations with nested calls inlined, the output atoms, and the values of constants."""
    constants: dict[Any, Any] = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
    flat: list[Any] = []

    def walk(jaxpr: Any, names: dict[Any, Any], top: bool) -> None:
        for eqn in jaxpr.eqns:
            invars = [atom if isinstance(atom, internals.Literal) else names.get(atom, atom) for atom in eqn.invars]
            body = _body(eqn)
            if body is not None:
                inner = dict(zip(body.jaxpr.invars, invars, strict=True))
                for var, value in zip(body.jaxpr.constvars, body.consts, strict=True):
                    inner[var] = internals.fresh_var(var.aval)
                    constants[inner[var]] = value
                walk(body.jaxpr, inner, top=False)
                names.update(
                    (out, atom if isinstance(atom, internals.Literal) else inner.get(atom, atom))
                    for out, atom in zip(eqn.outvars, body.jaxpr.outvars, strict=True)
                )
                continue
            outvars = eqn.outvars if top else [var if internals.is_drop_var(var) else internals.fresh_var(var.aval) for var in eqn.outvars]
            names.update(zip(eqn.outvars, outvars, strict=True))
            flat.append(eqn.replace(invars=invars, outvars=outvars))

    names: dict[Any, Any] = {}
    walk(traced.jaxpr, names, top=True)
    outputs = [atom if isinstance(atom, internals.Literal) else names.get(atom, atom) for atom in traced.jaxpr.outvars]
    return flat, outputs, constants


def _body(eqn: Any) -> ClosedJaxpr | None:
    """The jaxpr of a call that only groups equations."""
    if eqn.primitive.name not in _INLINED:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = eqn.params.get(key)
        if isinstance(found, ClosedJaxpr):
            return found
    return None


def _partition(eqns: Sequence[Any], known: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    """Equations to evaluate now, and those that stay in the program (in order)."""
    weight_only = set(known)
    early: list[Any] = []
    late: list[Any] = []
    growing: dict[Any, Any] = {}  # output of a growing weight-only equation -> the equation
    for eqn in eqns:
        reads = [var for var in eqn.invars if not isinstance(var, internals.Literal)]
        if eqn.effects or any(var not in weight_only for var in reads):
            late.append(eqn)
            continue
        weight_only.update(eqn.outvars)
        early.append(eqn)
        if _grows(eqn):
            growing.update((out, eqn) for out in eqn.outvars)
    return early, _with_growing(late, growing)


def _grows(eqn: Any) -> bool:
    result = sum(_nbytes(out.aval) for out in eqn.outvars)
    operands = sum(_nbytes(var.aval) for var in eqn.invars)
    return result > _SMALL_BYTES and result > _GROWTH_LIMIT * operands


def _nbytes(aval: Any) -> int:
    return int(prod(aval.shape) * getattr(aval.dtype, "itemsize", 8))


def _with_growing(late: Sequence[Any], growing: dict[Any, Any]) -> list[Any]:
    """``late`` with the growing weight-only equations it reads put back before their first reader."""
    placed: set[int] = set()
    result: list[Any] = []

    def place(eqn: Any) -> None:
        stack = [(eqn, iter(eqn.invars))]
        while stack:
            current, reads = stack[-1]
            for var in reads:
                source = None if isinstance(var, internals.Literal) else growing.get(var)
                if source is not None and id(source) not in placed:
                    placed.add(id(source))
                    stack.append((source, iter(source.invars)))
                    break
            else:
                result.append(current)
                stack.pop()

    for eqn in late:
        place(eqn)
    return result


def _evaluate(early: Sequence[Any], known: dict[Any, Any], stored: set[Any]) -> dict[Any, np.ndarray]:
    """Values of the stored variables; intermediate results are dropped after their last reader."""
    live = set(stored)
    wanted: list[Any] = []
    for eqn in reversed(early):
        if any(out in live for out in eqn.outvars):
            wanted.append(eqn)
            live.update(var for var in eqn.invars if not isinstance(var, internals.Literal))
    wanted.reverse()
    last = {var: index for index, eqn in enumerate(wanted) for var in eqn.invars if not isinstance(var, internals.Literal)}
    env = {var: value for var, value in known.items() if var in live}
    with jax.default_device(jax.devices("cpu")[0]):
        for index, eqn in enumerate(wanted):
            args = [var.val if isinstance(var, internals.Literal) else env[var] for var in eqn.invars]
            results = _evaluate_eqn(eqn, args)
            env.update(zip(eqn.outvars, results, strict=True))
            for var in (*eqn.invars, *eqn.outvars):
                if not isinstance(var, internals.Literal) and var not in stored and last.get(var, index) <= index:
                    env.pop(var, None)
    return {var: _stored(np.asarray(env[var])) for var in stored}


def _stored(array: np.ndarray) -> np.ndarray:
    """The array as programs take it in place: contiguous, and where it must be copied for that, aligned as well."""
    return array if array.flags.c_contiguous else aligned_copy(array)


def _evaluate_eqn(eqn: Any, args: Sequence[Any]) -> Sequence[Any]:
    """One equation on arrays: data movement as numpy views, everything else as XLA computes it."""
    name, params = eqn.primitive.name, eqn.params
    if name == "transpose":
        return [np.transpose(np.asarray(args[0]), params["permutation"])]
    if name in ("reshape", "squeeze", "expand_dims"):
        return [np.asarray(args[0]).reshape(eqn.outvars[0].aval.shape)]
    if name == "convert_element_type":
        return [np.asarray(args[0]).astype(eqn.outvars[0].aval.dtype)]
    results = eqn.primitive.bind(*args, **eqn.primitive.get_bind_params(params))
    return results if eqn.primitive.multiple_results else [results]
