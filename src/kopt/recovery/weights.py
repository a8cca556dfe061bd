"""Which constants of a student are trained, from where they start, and which of their zeros stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kopt.ir.graph import Graph, Node, Value
from kopt.recovery.straight import StoredWeight

Params = dict[str, np.ndarray]

_WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "FusedConv": (1, 2),
    "Gemm": (0, 1, 2),
    "FusedGemm": (0, 1, 2),
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SkipLayerNormalization": (2, 3, 4),
    "PRelu": (1,),
    "BiasGelu": (1,),
}
_VECTORS = ("Add", "Sub", "Mul", "Div")  # biases and scales written as arithmetic
_LARGEST = 1e4  # beyond it a constant is a mask, not a weight
MASKED_SHARE = 0.05
"""A weight of which fewer are zero has no mask."""


@dataclass(frozen=True)
class Trained:
    """The trained constants of a training graph.

    Attributes:
        values: by name, the constants of the training graph that are trained.
        start: their first values, f32.
        masks: where weights may differ from zero, for those that have a mask.
        stored: weights that the file holds as integers, by the name of their floats.
    """

    values: Mapping[str, Value]
    start: Params = field(repr=False)
    masks: Mapping[str, np.ndarray] = field(repr=False)
    stored: Mapping[str, StoredWeight] = field(repr=False)


def trained(graph: Graph, original: Graph, teacher: Graph, stored: list[StoredWeight], *, freeze_masks: bool) -> Trained:
    """The constants to train.

    Args:
        graph: the training graph, static.
        original: the student as it was read; constants that it does not have are left alone.
        teacher: where integers of weights come from: the exact ones are the best start.
        stored: weights that are stored as integers.
        freeze_masks: whether zeros of weights stay.
    """
    held = {weight.floats.name: weight for weight in stored}
    names = {value.name: value.tensor.shape for value in original.constants}
    values: dict[str, Value] = {}
    start: Params = {}
    masks: dict[str, np.ndarray] = {}
    for value, constant in graph.constants.items():
        own = value.name in held or names.get(value.name, ()) == value.tensor.shape
        if not own or not value.tensor.dtype.is_float or not _is_weight(graph, value):
            continue
        array = np.asarray(constant.array(), np.float32)
        if array.size < 2 or not np.isfinite(array).all() or np.abs(array).max() > _LARGEST:
            continue
        values[value.name] = value
        if freeze_masks and array.ndim > 1 and value.name not in held and (array == 0).mean() >= MASKED_SHARE:
            masks[value.name] = (array != 0).astype(np.float32)
        start[value.name] = _exact(graph, teacher, value, array) if value.name in held else array
    return Trained(values, start, masks, {name: weight for name, weight in held.items() if name in values})


def _is_weight(graph: Graph, value: Value) -> bool:
    """Whether every reader takes a value as a weight, a bias or a scale."""
    uses = graph.uses(value)
    return bool(uses) and all(use.node is not None and _reads_weight(use.node, use.index, value) for use in uses)


def _reads_weight(node: Node, index: int, value: Value) -> bool:
    if index in _WEIGHTS.get(node.op, ()):
        return True
    shape = value.tensor.shape or ()
    return node.op in _VECTORS and sum(dim != 1 for dim in shape) == 1


def _exact(graph: Graph, teacher: Graph, value: Value, rounded: np.ndarray) -> np.ndarray:
    """The teacher's weight in the place of a stored one, where it has the same shape and resembles it; else the stored one."""
    use = graph.uses(value)[0]
    if use.node is None:
        return rounded
    made = {output.name: node for node in teacher.nodes for output in node.outputs if output is not None}
    other = next((made[output.name] for output in use.node.outputs if output is not None and output.name in made), None)
    found = teacher.constant(other.input(use.index)) if other is not None else None
    if found is None or found.shape != rounded.shape:
        return rounded
    exact = np.asarray(found, np.float32)
    alike = float((exact * rounded).sum()) / max(float(np.linalg.norm(exact) * np.linalg.norm(rounded)), 1e-30)
    return exact if alike > 0.5 else rounded


def written_back(original: Graph, held: Trained, params: Mapping[str, np.ndarray]) -> dict[Value, np.ndarray]:
    """The trained constants of the student, in the form its file holds them."""
    by_name = {value.name: value for value in original.constants}
    result: dict[Value, np.ndarray] = {}
    for name, array in params.items():
        if name in held.stored:
            weight = held.stored[name]
            value = by_name.get(weight.value.name)
            if value is not None:
                result[value] = weight.stored(array)
        else:
            mask = held.masks.get(name)
            value = by_name[name]
            result[value] = (array if mask is None else array * mask).astype(value.tensor.dtype.numpy)
    return result
