"""Types of products on 16-bit floats with f32 results: the operator of the name without "Mixed", inputs narrowed.

``MatMulMixed`` (A, B), ``GemmMixed`` (A, B, C) and ``ConvNhwcMixed`` (X, W, B) of ``com.kopt`` take their first two inputs
in bf16 or f16, both the same; C, B and the result are f32, and so are all sums. Attributes are those of the original.
``ProductMixed`` and ``FusedConvNhwcMixed`` (X, W, B, residual) may take the residual in the type of X as well, and write
their result in it where the attribute ``narrow_result`` is 1.
Imported by ``kopt.ir.spec``, so that the rules are known wherever types are inferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kopt.errors import InvalidModelError
from kopt.ir.graph import KOPT, ONNX, Node, Value
from kopt.ir.spec import DOMAIN_VERSIONS, infer_node, type_rule
from kopt.ir.types import DType, TensorType, Type

MIXED_OPS: dict[tuple[str, str], str] = {
    (ONNX, "MatMul"): "MatMulMixed",
    (ONNX, "Gemm"): "GemmMixed",
    (KOPT, "ConvNhwc"): "ConvNhwcMixed",
    (KOPT, "Product"): "ProductMixed",
    (KOPT, "FusedConvNhwc"): "FusedConvNhwcMixed",
}
"""(domain, op) of the f32 operator -> its mixed-precision name in ``com.kopt``."""

NARROW_INPUTS = (0, 1)
"""Positions of the operands that are multiplied; everything behind them is added in f32."""

RESIDUAL_INPUT = 3
"""Position of what the fused forms add; it may be narrow."""

_ORIGINAL = {name: original for original, name in MIXED_OPS.items()}


@type_rule(KOPT, *_ORIGINAL)
def mixed_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:
    """The original operator's output type on f32.

    Raises:
        InvalidModelError: operands are not of one 16-bit float type, what is added is not f32, or shapes do not fit.
    """
    operands = {type_.dtype for type_ in types[:2] if isinstance(type_, TensorType)}
    fused = node.op in ("ProductMixed", "FusedConvNhwcMixed")
    allowed = [{DType.F32} | (operands if fused and k == RESIDUAL_INPUT else set()) for k in range(len(types))]
    added = all(type_.dtype in allowed[k] for k, type_ in enumerate(types) if k > 1 and isinstance(type_, TensorType))
    if len(operands) != 1 or not operands <= {DType.BF16, DType.F16} or not added:
        shapes = ", ".join("-" if type_ is None else str(type_) for type_ in types)
        raise InvalidModelError(
            f"{node.qualified_op} does not accept ({shapes})",
            where=node.loc,
            next_step="cast both factors to bf16 or both to f16, and what is added to f32",
        )
    domain, op = _ORIGINAL[node.op]
    inputs = tuple(None if type_ is None else Value(f"i{index}", _widened(type_)) for index, type_ in enumerate(types))
    attrs = {name: value for name, value in node.attrs.items() if name != "narrow_result"}
    original = node.replace(op=op, domain=domain, version=DOMAIN_VERSIONS[domain], inputs=inputs, attrs=attrs)
    found = infer_node(original, {index: array.astype(np.float32) for index, array in constants.items()})
    return (
        tuple(TensorType(next(iter(operands)), type_.shape) for type_ in found if isinstance(type_, TensorType))
        if _narrows(node)
        else found
    )


def _narrows(node: Node) -> bool:
    """Whether the result has the operands' type."""
    return bool(node.attrs.get("narrow_result", 0))


def _widened(type_: Type) -> Type:
    return TensorType(DType.F32, type_.shape) if isinstance(type_, TensorType) else type_
