"""The loss of a student against its teacher: outputs and inner values, each as a share of the teacher's energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import Graph, Value
from kopt.recovery.match import Pair
from kopt.recovery.observe import watching
from kopt.recovery.weights import Trained
from kopt.targets.lowering.walk import run_graph

_LITERAL_BYTES = 1 << 14
"""Constants up to this size are part of the program, larger ones its arguments."""

_PLAIN = {"conv3x3": "direct"}  # compiles soonest, and its gradient is a convolution again


@dataclass(frozen=True)
class Objective:
    """Compiled losses.

    Attributes:
        gradients: (params, inputs) -> (loss, gradients); outputs and inner values.
        outputs: (params, inputs) -> error of the outputs alone, as a share of the teacher's energy.
    """

    gradients: Callable[[Any, Sequence[Any]], tuple[Any, Any]]
    outputs: Callable[[Any, Sequence[Any]], Any]


def objective(student: Graph, teacher: Graph, held: Trained, pairs: Sequence[Pair], outputs: Sequence[int], *, stacked: bool) -> Objective:
    """The losses of a student.

    Args:
        student: the training graph.
        teacher: static, at the same inputs.
        held: what is trained.
        pairs: inner values to compare.
        outputs: positions of the outputs to compare.
        stacked: whether inputs are stacks of whole calls.
    """
    names = [pair.name for pair in pairs]
    ours, theirs = _Side(student, names, outputs, stacked, held), _Side(teacher, names, outputs, stacked)

    def distances(params: Any, constants: Any, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        mine, wanted = ours(params, constants[0], inputs), theirs({}, constants[1], inputs)
        mine_inner, wanted_inner = mine[len(outputs) :], wanted[len(outputs) :]
        inner = [_distance(a, _kept(b, pair.kept, stacked)) for a, b, pair in zip(mine_inner, wanted_inner, pairs, strict=True)]
        return [_distance(a, b) for a, b in zip(mine[: len(outputs)], wanted[: len(outputs)], strict=True)], inner

    def loss(params: Any, constants: Any, inputs: Sequence[Any]) -> Any:
        last, inner = distances(params, constants, inputs)
        return sum(last) / len(last) + (sum(inner) / len(inner) if inner else 0.0)

    def error(params: Any, constants: Any, inputs: Sequence[Any]) -> Any:
        last, _ = distances(params, constants, inputs)
        return sum(last) / len(last)

    constants = (ours.constants, theirs.constants)
    gradients, measured = jax.jit(jax.value_and_grad(loss)), jax.jit(error)
    return Objective(
        lambda params, inputs: gradients(params, constants, inputs), lambda params, inputs: measured(params, constants, inputs)
    )


def _distance(mine: Any, wanted: Any) -> Any:
    """The squared error as a share of the energy around the mean."""
    mine, wanted = mine.astype(np.float32), jax.lax.stop_gradient(wanted.astype(np.float32))
    energy = jnp.mean(jnp.square(wanted - jnp.mean(wanted)))
    return jnp.mean(jnp.square(mine - wanted)) / (energy + 1e-12)


def _kept(value: Any, kept: Mapping[int, np.ndarray], stacked: bool) -> Any:
    for axis, coordinates in kept.items():
        value = jnp.take(value, coordinates, axis=axis + stacked)
    return value


class _Side:
    """One of the two graphs as a function."""

    def __init__(self, graph: Graph, names: Sequence[str], outputs: Sequence[int], stacked: bool, held: Trained | None = None) -> None:
        watched = graph.replace(outputs=tuple(graph.outputs[index] for index in outputs))
        self.graph, _ = watching(watched, names)
        self.held = held
        self.stacked = stacked
        own: Mapping[str, Value] = held.values if held is not None else {}
        big = [value for value, constant in graph.constants.items() if constant.nbytes > _LITERAL_BYTES and value.tensor.dtype.is_float]
        self.values = [value for value in big if own.get(value.name) is not value]
        self.constants = [jnp.asarray(graph.constants[value].array()) for value in self.values]

    def __call__(self, params: Mapping[str, Any], constants: Sequence[Any], inputs: Sequence[Any]) -> tuple[Any, ...]:
        weights = dict(zip(self.values, constants, strict=True))
        if self.held is not None:
            weights |= {value: _effective(self.held, name, params[name], value) for name, value in self.held.values.items()}

        def run(arrays: Sequence[Any]) -> tuple[Any, ...]:
            return run_graph(self.graph, arrays, weights=weights, options=_PLAIN)

        return jax.vmap(run)(inputs) if self.stacked else run(inputs)


def _effective(held: Trained, name: str, array: Any, value: Value) -> Any:
    """A parameter as the graph uses it: rounded where the file holds integers, masked where zeros stay."""
    if name in held.stored:
        array = held.stored[name].rounded(array)
    if name in held.masks:
        array = array * held.masks[name]
    return array.astype(value.tensor.dtype.numpy)
