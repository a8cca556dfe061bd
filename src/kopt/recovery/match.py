"""Which values of a student are compared with which of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kopt.errors import UsageError
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import TensorType
from kopt.passes.prune.record import kept_axes

MOST_FEATURES = 32
_COMPARED = frozenset(
    {"Relu", "Clip", "Add", "Gelu", "HardSwish", "Swish", "Sigmoid", "Tanh", "LeakyRelu", "PRelu", "Elu", "Concat", "Mul"}
    | {"LayerNormalization", "RMSNormalization", "SkipLayerNormalization", "FusedConv", "BiasGelu", "QuickGelu", "StraightThrough"}
)


@dataclass(frozen=True)
class Pair:
    """A value of both graphs.

    Attributes:
        name: in both.
        kept: by axis, the coordinates of the teacher's value that the student still has.
    """

    name: str
    kept: Mapping[int, np.ndarray]


def features(student: Graph, teacher: Graph, record: Graph) -> list[Pair]:
    """Values inside of both graphs that mean the same, at most ``MOST_FEATURES`` of them, evenly spread.

    Args:
        student: static.
        teacher: static, at the same inputs.
        record: whose metadata says which coordinates pruning kept.
    """
    kept = kept_axes(record)
    theirs = _made(teacher)
    ours = _made(student)
    outputs = {value.name for value in student.outputs}
    found = []
    for name, (node, value) in ours.items():
        if node.op not in _COMPARED or name in outputs or name not in theirs:
            continue
        pair = Pair(name, kept.get(name, {}))
        if value.tensor.shape == _cut_shape(theirs[name][1], pair.kept):
            found.append(pair)
    if len(found) > MOST_FEATURES:
        found = [found[int(index)] for index in np.linspace(0, len(found) - 1, MOST_FEATURES)]
    return found


def _made(graph: Graph) -> dict[str, tuple[Node, Value]]:
    """By name, the static float tensors that nodes make."""
    return {
        value.name: (node, value)
        for node in graph.nodes
        for value in node.outputs
        if value is not None and isinstance(value.type, TensorType) and value.type.dtype.is_float and value.type.is_static
    }


def _cut_shape(value: Value, kept: Mapping[int, np.ndarray]) -> tuple[int, ...] | None:
    shape = list(value.shape)
    for axis, coordinates in kept.items():
        if axis >= len(shape) or (coordinates >= shape[axis]).any():
            return None
        shape[axis] = len(coordinates)
    return tuple(shape)


def compared_outputs(student: Graph, teacher: Graph) -> list[int]:
    """Positions of the float outputs.

    Raises:
        UsageError: the two graphs are not versions of one model.
    """
    mine, theirs = ([(value.name, value.type) for value in graph.outputs] for graph in (student, teacher))
    inputs = ([value.name for value in graph.inputs] for graph in (student, teacher))
    if mine != theirs or len(set(map(tuple, inputs))) > 1:
        raise UsageError(
            f"the two models have different inputs or outputs: {_listed(mine)} and {_listed(theirs)}",
            where=student.name,
            next_step="give as --teacher the model that the student was made from",
        )
    found = [index for index, (_, type_) in enumerate(mine) if isinstance(type_, TensorType) and type_.dtype.is_float]
    if not found:
        raise UsageError("the model has no float output to compare", where=student.name, next_step="recover a part of it that has one")
    return found


def _listed(outputs: Sequence[tuple[str, object]]) -> str:
    return ", ".join(f"{name} {type_}" for name, type_ in outputs)
