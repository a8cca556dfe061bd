"""Type of kopt's inverted residual block.

``InvertedResidual(x, w1?, b1?, filters, b2?, w3, b3?)`` of ``com.kopt`` is, channels last::

    wide = activation(ConvNhwc(x, w1) + b1), or x without w1
    slid = activation(ConvNhwc(wide, filters, group=E) + b2)
    y    = last_activation(ConvNhwc(slid, w3) + b3 + x), x only with residual=1

x: (N, H, W, C), w1: (E, C, 1, 1), filters: (E, 1, kh, kw), w3: (M, E, 1, 1), as ONNX has them. Attributes: ``strides``, ``pads``,
``dilations`` and ``auto_pad`` of the middle layer; ``activation`` and ``activation_params`` as those of com.microsoft's
FusedConv, the same for the first two layers, and with ``last_`` before for the third; ``residual``. Imported by ``kopt.ir.spec``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kopt.ir.graph import KOPT, Node, Value
from kopt.ir.spec import infer_node, type_rule
from kopt.ir.types import DType, TensorType, Type

_WINDOW = ("auto_pad", "dilations", "pads", "strides")


@type_rule(KOPT, "InvertedResidual")
def inverted_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:
    """The middle layer's type, with the channels of the third."""
    x, filters, last = types[0], types[3], types[5]
    known = [type_ for type_ in (x, filters, last) if isinstance(type_, TensorType) and type_.shape is not None]
    if len(known) < 3:
        return (TensorType(x.dtype if isinstance(x, TensorType) else DType.F32, None),)
    (batch, height, width, _), (wide, *_), (outputs, *_) = (type_.shape or () for type_ in known)
    image = Value("wide", TensorType(known[0].dtype, (batch, height, width, wide)))
    window = {name: value for name, value in node.attrs.items() if name in _WINDOW}
    middle = node.replace(op="ConvNhwc", inputs=(image, Value("filters", known[1])), attrs={**window, "group": wide})
    (slid,) = infer_node(middle, constants)
    shape = slid.shape if isinstance(slid, TensorType) else None
    return (TensorType(known[0].dtype, None if shape is None else (*shape[:-1], outputs)),)
