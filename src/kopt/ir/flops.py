"""Floating-point operations of a node on static shapes; a multiply-add counts as two."""

from __future__ import annotations

from math import prod

from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import TensorType

_FREE = frozenset(
    {
        "Cast",
        "Concat",
        "Constant",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Pad",
        "Reshape",
        "Shape",
        "Slice",
    }
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where", "Size", "ScatterND", "ScatterElements", "ConstantOfShape", "Range"}
)
_CONVOLUTIONS = frozenset(
    {"Conv", "ConvNhwc", "ConvNhwcMixed", "FusedConv", "FusedConvNhwc", "ConvInteger", "QLinearConv", "Int8ConvNhwc", "FusedConvNhwcMixed"}
)
_PRODUCTS = frozenset({"Product", "ProductMixed", "Int8Product"})
_PER_ELEMENT = {
    "Softmax": 5,
    "LogSoftmax": 6,
    "Gelu": 8,
    "Erf": 6,
    "Tanh": 6,
    "Sigmoid": 4,
    "Exp": 4,
    "LayerNormalization": 8,
    "RMSNormalization": 5,
}
"""Rough operations per element of the costlier functions; everything else counts one."""


def node_flops(node: Node) -> int:
    """Operations of one node; 0 for data movement, and where shapes are not static."""
    shapes = [_shape(value) for value in node.inputs]
    output = _shape(node.outputs[0] if node.outputs else None)
    if output is None or node.op in _FREE:
        return 0
    if node.op in _CONVOLUTIONS and len(shapes) > 1 and shapes[1] is not None:
        return 2 * prod(output) * prod(shapes[1][1:])
    if node.op == "InvertedResidual" and len(shapes) > 5:
        return _inverted_flops(shapes, output)
    if node.op in ("ConvTranspose", "ConvTransposeNhwc") and len(shapes) > 1 and shapes[0] is not None and shapes[1] is not None:
        return 2 * prod(shapes[0]) * prod(shapes[1][1:])
    if node.op in ("Gemm", "GemmMixed", "FusedGemm") and shapes[0] is not None:
        return 2 * prod(output) * shapes[0][0 if node.attrs.get("transA") else 1]
    if ("MatMul" in node.op or node.op in _PRODUCTS) and shapes and shapes[0]:
        return 2 * prod(output) * shapes[0][-1]
    if node.op == "Attention" and len(shapes) > 2 and shapes[0] is not None and shapes[1] is not None:
        return 4 * prod(shapes[0]) * shapes[1][-2]
    if node.op in ("MaxPool", "AveragePool", "LpPool", "MaxPoolNhwc", "AveragePoolNhwc", "LpPoolNhwc"):
        kernel = node.attrs.get("kernel_shape")
        return prod(output) * (prod(k for k in kernel if isinstance(k, int)) if isinstance(kernel, tuple) else 1)
    if node.op.startswith(("Reduce", "GlobalAverage")) and shapes and shapes[0] is not None:
        return prod(shapes[0])
    return prod(output) * _PER_ELEMENT.get(node.op, 1)


def _inverted_flops(shapes: list[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
    """The layers of kopt's inverted residual block."""
    x, first, filters = shapes[0] or (), shapes[1], shapes[3] or ()
    expand = prod(x) * first[0] if first else 0
    return 2 * (expand + prod(output[:-1]) * (prod(filters) + filters[0] * output[-1])) if filters else 0


def graph_flops(graph: Graph) -> int:
    """Operations of one run of a static graph; bodies of control flow count once."""
    return sum(node_flops(node) for _, node in graph.walk())


def _shape(value: Value | None) -> tuple[int, ...] | None:
    if value is None or not isinstance(value.type, TensorType) or not value.type.is_static:
        return None
    return value.type.static_shape
