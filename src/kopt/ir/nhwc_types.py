"""Types of kopt's channels-last operators: the ONNX operator of the same name, with its activations transposed.

``ConvNhwc`` takes X as ``(N, *spatial, C)`` and the weight as ONNX has it, ``(M, C / group, *kernel)``; all attributes
are those of ``Conv``. The other operators follow the same pattern, at any number of spatial axes. Imported by
``kopt.ir.spec``, so that the rules are known wherever types are inferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kopt.ir.graph import KOPT, MICROSOFT, ONNX, Node, Value
from kopt.ir.spec import DOMAIN_VERSIONS, infer_node, type_rule
from kopt.ir.types import TensorType, Type

NHWC_OPS: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = {
    (ONNX, "Conv"): ("ConvNhwc", (0,)),
    (MICROSOFT, "FusedConv"): ("FusedConvNhwc", (0, 3)),
    (ONNX, "ConvTranspose"): ("ConvTransposeNhwc", (0,)),
    (ONNX, "MaxPool"): ("MaxPoolNhwc", (0,)),
    (ONNX, "AveragePool"): ("AveragePoolNhwc", (0,)),
    (ONNX, "LpPool"): ("LpPoolNhwc", (0,)),
    (ONNX, "GlobalAveragePool"): ("GlobalAveragePoolNhwc", (0,)),
}
"""(domain, op) of the channels-first operator -> its channels-last name in ``com.kopt`` and the inputs that are activations."""

_ORIGINAL = {name: (domain, op, activations) for (domain, op), (name, activations) in NHWC_OPS.items()}


def to_nhwc(rank: int) -> tuple[int, ...]:
    """The permutation from ``(N, C, *spatial)`` to ``(N, *spatial, C)``."""
    return (0, *range(2, rank), 1)


def to_nchw(rank: int) -> tuple[int, ...]:
    """The permutation from ``(N, *spatial, C)`` to ``(N, C, *spatial)``."""
    return (0, rank - 1, *range(1, rank - 1))


def _permuted(type_: Type, nhwc: bool) -> Type:
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    order = to_nhwc(len(type_.shape)) if nhwc else to_nchw(len(type_.shape))
    return TensorType(type_.dtype, tuple(type_.shape[axis] for axis in order))


@type_rule(KOPT, *_ORIGINAL)
def nhwc_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:
    """Output types of a channels-last operator, from those of the ONNX operator it stands for."""
    domain, op, activations = _ORIGINAL[node.op]
    inputs = tuple(
        None if type_ is None else Value(f"i{index}", _permuted(type_, nhwc=False) if index in activations else type_)
        for index, type_ in enumerate(types)
    )
    original = node.replace(op=op, domain=domain, version=DOMAIN_VERSIONS[domain], inputs=inputs)
    return tuple(_permuted(type_, nhwc=True) for type_ in infer_node(original, constants))
