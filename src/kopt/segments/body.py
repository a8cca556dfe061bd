"""Bodies of control flow on the host, and the form values have there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kopt.hardware import Target
from kopt.ir.graph import Graph, Value
from kopt.ir.types import DType, TensorType
from kopt.specialize import Programs, Recipe


class Body:
    """The body of a control-flow node as a function: its inputs, then its captures."""

    def __init__(self, body: Graph, recipe: Recipe, target: Target) -> None:
        self.body = body
        self._programs = Programs(body.replace(inputs=(*body.inputs, *body.captures), captures=()), recipe, target)

    def __call__(self, inputs: Sequence[Any], captured: Sequence[Any]) -> list[Any]:
        """The body's outputs, on the host."""
        results = self._programs([*inputs, *captured])
        return [host_value(item, value) for item, value in zip(results, self.body.outputs, strict=True)]


def host_value(item: Any, value: Value) -> Any:
    """``item`` as host functions take it: numpy arrays, strings as objects of type str; lists, dicts and None as they are."""
    if item is None or isinstance(item, list | tuple | dict):
        return item
    array = np.asarray(item)
    is_text = isinstance(value.type, TensorType) and value.type.dtype is DType.STRING
    if array.dtype.kind in "US" or (is_text and array.dtype == object):
        return np.asarray([_text(entry) for entry in array.ravel().tolist()], object).reshape(array.shape)
    return array


def _text(item: Any) -> str:
    return item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)
