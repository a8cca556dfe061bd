"""Types of kopt's form of Gradient: derivatives have the types of what is derived by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kopt.ir.graph import KOPT, Node
from kopt.ir.spec import type_rule
from kopt.ir.types import DType, TensorType, Type


@type_rule(KOPT, "Gradient")
def gradient_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The types of the first inputs."""
    unknown = TensorType(DType.F32, None)
    return tuple(types[k] or unknown if k < len(types) else unknown for k in range(len(node.outputs)))
