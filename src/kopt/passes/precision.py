"""Mixed precision: products multiply in 16 bits and sum in f32; everything else stays f32."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from kopt.errors import Location
from kopt.ir.builder import Builder
from kopt.ir.constant import Constant
from kopt.ir.graph import KOPT, Graph, Node, Value
from kopt.ir.mixed_types import MIXED_OPS, NARROW_INPUTS
from kopt.ir.spec import DOMAIN_VERSIONS
from kopt.ir.surgery import remove_dead
from kopt.ir.types import DType, TensorType
from kopt.passes.base import PassContext, register

_DTYPES = ("bf16", "f16")
_MAX_ERROR = {DType.BF16: 2.0**-7, DType.F16: 2.0**-10}
"""Largest ||w - narrow(w)|| / ||w|| of a weight: a few times the rounding of the type, so only underflow exceeds it."""
_MAX_LOST = 0.01
"""Largest share of a weight's elements that may become zero."""
_WITH_KERNELS = ("Product", "FusedConvNhwc")
_STANDS_FOR = {"Product": ("MatMul", "Gemm")}
_MAX_PATCH_AREA = 64  # output pixels up to which a 3x3 convolution runs as one product of patches


@register
@dataclass(frozen=True)
class Precision:
    """Multiply in 16 bits: MatMul(x, w)  ==>  MatMulMixed(Cast(x), w16) in ``com.kopt``, with an f32 result.

    Applies to MatMul, Gemm and to those ConvNhwc that run as matrix products (XLA has no fast 16-bit convolution), and to
    Product and FusedConvNhwc, which have kernels; on static f32. Weights become 16-bit constants, half the size; a value that
    several products read is cast once. Normalizations, softmax, elementwise work, reductions, bodies of control flow, graph
    inputs and outputs stay as they are. A weight that the type cannot hold keeps its product in f32.

    Attributes:
        dtype: "bf16" or "f16".
        keep: names of nodes, or of operators, that stay f32.
        min_rows: products with fewer rows stay f32. Packing the weight costs more than the product gains there. Source:
            1 x 768 x 768 took 2.3 times as long in bf16 as in f32, 8 x 768 x 768 0.77 times (two AVX-512 cores, jaxlib 0.10.2).
    """

    name: ClassVar[str] = "precision"
    dtype: str = "bf16"
    keep: tuple[str, ...] = ()
    min_rows: int = 8

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option that does not exist.
        """
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype is one of {', '.join(_DTYPES)}, not '{self.dtype}'")

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph in mixed precision; the same graph when it holds no product to change."""
        rewriter = _Rewriter(self, graph, ctx)
        for node in graph.nodes:
            rewriter.visit(node)
        for name in sorted(set(self.keep) - rewriter.kept):
            ctx.skip("keep", Location(nodes=(name,)), "names no product of this graph")
        if not rewriter.num_changed:
            return graph
        constants = {**graph.constants, **rewriter.builder.constants}
        return remove_dead(graph.replace(nodes=tuple(rewriter.builder.nodes), constants=constants))


class _Rewriter:
    """One forward walk over the nodes of a graph."""

    def __init__(self, options: Precision, graph: Graph, ctx: PassContext) -> None:
        self.options, self.graph, self.ctx = options, graph, ctx
        self.dtype = DType(options.dtype)
        self.builder = Builder.for_graph(graph)
        self.kept: set[str] = set()
        self.num_changed = 0
        self._narrow: dict[Value, Value | str] = {}

    def visit(self, node: Node) -> None:
        """Emit the node, narrowed where that is possible."""
        op = MIXED_OPS.get((node.domain, node.op))
        if op is None or self._is_kept(node) or not _is_f32(node):
            self.builder.nodes.append(node)
            return
        reason = _static_reason(node, self.options)
        operands = [self._narrowed(node.inputs[k], node) for k in NARROW_INPUTS] if not reason else []
        reason = reason or next((found for found in operands if isinstance(found, str)), "")
        if reason:
            self.ctx.skip(f"{node.op} ==> {op}", node.loc, reason)
            self.builder.nodes.append(node)
            return
        values = tuple(found for found in operands if isinstance(found, Value))
        inputs = (*values, *node.inputs[len(values) :])
        self.builder.nodes.append(node.replace(op=op, domain=KOPT, version=DOMAIN_VERSIONS[KOPT], inputs=inputs))
        self.ctx.applied(f"{node.op} ==> {op}")
        self.num_changed += 1

    def _is_kept(self, node: Node) -> bool:
        names = {node.name, *node.loc.nodes, node.op, node.op.removesuffix("Nhwc").removeprefix("Fused"), *_STANDS_FOR.get(node.op, ())}
        names &= set(self.options.keep)
        self.kept |= names
        return bool(names)

    def _narrowed(self, value: Value | None, node: Node) -> Value | str:
        """``value`` in 16 bits, or why it cannot be."""
        if value is None:
            return "an operand is absent"
        if value not in self._narrow:
            constant = self.graph.constants.get(value)
            self._narrow[value] = self._cast(value, node) if constant is None else self._weight(value, constant)
        return self._narrow[value]

    def _cast(self, value: Value, node: Node) -> Value:
        return self.builder.emit("Cast", value, hint=f"{value.name}_{self.dtype}", loc=node.loc, attrs={"to": self.dtype.onnx})

    def _weight(self, value: Value, constant: Constant) -> Value | str:
        array, hint = constant.array(), f"{value.name}_{self.dtype}"
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            narrow = array.astype(self.dtype.numpy)
        return range_reason(array, narrow, self.dtype) or self.builder.constant(narrow, hint)


def _is_f32(node: Node) -> bool:
    return all(value is None or (isinstance(value.type, TensorType) and value.type.dtype is DType.F32) for value in node.inputs)


def range_reason(array: np.ndarray, narrow: np.ndarray, dtype: DType) -> str:
    """Why ``narrow`` is no stand-in for ``array``, or nothing. Infinities and NaN of the weight itself are kept as they are."""
    wide = narrow.astype(np.float32)
    finite = np.isfinite(array)
    if not np.isfinite(wide[finite]).all():
        return f"the weight holds values beyond the range of {dtype}, up to {np.abs(array[finite]).max():.3g}"
    nonzero = np.count_nonzero(array)
    lost = nonzero - np.count_nonzero(wide)
    if lost > _MAX_LOST * nonzero:
        return f"{lost / nonzero:.0%} of the weight's values would become 0 in {dtype}"
    original = array[finite].astype(np.float64)
    error, size = np.linalg.norm(original - wide[finite]), np.linalg.norm(original)
    if error > _MAX_ERROR[dtype] * size:
        return f"the weight is too small for {dtype}: its rounding would cost {error / size:.1e} of it"
    return ""


def _static_reason(node: Node, options: Precision) -> str:
    """Why a product is not worth changing, judged by shapes, or nothing."""
    values = [value for value in (*node.inputs[:2], node.outputs[0]) if value is not None]
    if len(values) < 3 or not all(value.tensor.is_static for value in values):
        return "shapes are not static"
    left, right, out = (value.shape for value in values)
    if node.op in _WITH_KERNELS:
        return "" if node.op == "Product" or (node.attrs.get("group", 1) == 1 and len(right) == 4) else "no kernel takes it"
    if node.op == "ConvNhwc":
        reason = _conv_reason(node, right, out)
        rows = prod(out[:-1])
    elif node.op == "Gemm":
        reason, rows = "", out[0]
    else:
        reason, rows = "", _matmul_rows(left, right)
    if not reason and rows < options.min_rows:
        return f"{rows} rows: in {options.dtype} the weight's packing costs more than the product gains"
    return reason


def _matmul_rows(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Rows of one product: all leading dimensions of the left side count when the right side is a matrix."""
    if len(left) < 2:
        return 1
    return prod(left[:-1]) if len(right) <= 2 else left[-2]


def _conv_reason(node: Node, weight: tuple[int, ...], out: tuple[int, ...]) -> str:
    """Why a convolution stays f32, or nothing: the shapes named here are those that run as one matrix product."""
    if node.attrs.get("group", 1) != 1:
        return "grouped"
    kernel, count = weight[2:], len(weight) - 2
    strides = node.attrs.get("strides") or (1,) * count
    dilations = node.attrs.get("dilations") or (1,) * count
    explicit = any(bool(pad) for pad in _ints(node.attrs.get("pads")))
    padded = explicit or str(node.attrs.get("auto_pad", "NOTSET")).startswith("SAME")
    if count != 2:
        return "not two-dimensional"
    if kernel == (1, 1) and not explicit:
        return ""
    if kernel == strides and not padded and dilations == (1, 1):
        return ""
    if kernel == (3, 3) and dilations == (1, 1) and prod(out[1:3]) <= _MAX_PATCH_AREA:
        return ""
    return "runs as a convolution, and 16-bit convolutions have no fast form here"


def _ints(attr: object) -> tuple[object, ...]:
    return attr if isinstance(attr, tuple) else ()
