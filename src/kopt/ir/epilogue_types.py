"""Type of kopt's product with what follows it.

``Product(x, w, bias?, residual?)`` is ``activation(x @ op(w) + bias + residual)``.  x: (..., K), w: (K, N), or (N, K) with
``transB``; bias: (N,); residual: the result's shape. Attributes: ``transB``, ``activation`` and ``activation_params`` as
those of com.microsoft's FusedConv. Imported by ``kopt.ir.spec``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kopt.ir.graph import KOPT, Node
from kopt.ir.spec import type_rule
from kopt.ir.types import DType, TensorType, Type


@type_rule(KOPT, "Product")
def product_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """(..., K) and (K, N) give (..., N)."""
    x, w = types[0], types[1]
    if not isinstance(x, TensorType) or not isinstance(w, TensorType) or x.shape is None or w.shape is None:
        return (TensorType(x.dtype if isinstance(x, TensorType) else DType.F32, None),)
    return (TensorType(x.dtype, (*x.shape[:-1], w.shape[0 if node.attrs.get("transB") else 1])),)
