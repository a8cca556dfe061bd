"""16-bit files: weights in fp16 or bf16, products in fp16 where the numbers fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.surgery import remove_dead, rename_outputs, substitute
from kopt.ir.types import DType
from kopt.passes.base import PassContext, register
from kopt.passes.precision import range_reason
from kopt.passes.quantize.plan import Layer, is_kept, layer_of

_MAX_F16 = 3e4
"""Activations beyond stay f32: fp16 ends at 65504, and sums must have room."""


@register
@dataclass(frozen=True)
class NarrowWeights:
    """MatMul(x, w)  ==>  MatMul(x, Cast(w16)) in bf16, Cast(MatMul(Cast(x), w16)) in fp16.

    Applies to Conv, Gemm and MatMul with constant f32 weights that the type can hold. In bf16 only the file is narrower,
    since few runtimes multiply in it; `kopt compile --precision bf16` does. In fp16 a layer whose input or result was seen
    beyond 3e4 stays f32. Normalizations, softmax, sums and everything else stay f32.

    Attributes:
        dtype: "bf16" or "f16".
        keep: names of nodes, or of operators, that stay f32.
        ranges: smallest and largest number by value name, as calibration found them.
    """

    name: ClassVar[str] = "narrow-weights"
    dtype: str = "f16"
    keep: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option that does not exist.
        """
        if self.dtype not in ("bf16", "f16"):
            raise ValueError(f"dtype is bf16 or f16, not '{self.dtype}'")

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with 16-bit weights; the same graph when there are none."""
        builder, held, changed = Builder.for_graph(graph), {}, 0
        for node in graph.nodes:
            layer = None if is_kept(node, self.keep) else layer_of(graph, node)
            reason = "" if layer is None else self._reason(graph, layer)
            if layer is None or reason:
                builder.nodes.append(node)
                if reason:
                    ctx.skip("narrow", node.loc, reason)
                continue
            if layer.w not in held:
                array = graph.constants[layer.w].array().astype(DType(self.dtype).numpy)
                held[layer.w] = builder.constant(array, f"{layer.w.name}_{self.dtype}")
            self._emit(builder, layer, held[layer.w], node)
            ctx.applied(f"{node.op} in {self.dtype}")
            changed += 1
        if not changed:
            return graph
        return remove_dead(graph.replace(nodes=tuple(builder.nodes), constants={**graph.constants, **builder.constants}))

    def _reason(self, graph: Graph, layer: Layer) -> str:
        """Why a layer stays f32, or nothing."""
        for value in (layer.x, layer.node.output):
            low, high = self.ranges.get(value.name, (0.0, 0.0))
            if self.dtype == "f16" and max(-low, high) > _MAX_F16:
                return f"'{value.name}' holds numbers up to {max(-low, high):.3g}"
        array = graph.constants[layer.w].array()
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return range_reason(array, array.astype(DType(self.dtype).numpy), DType(self.dtype))

    def _emit(self, builder: Builder, layer: Layer, w: Value, node: Node) -> None:
        def cast(value: Value, to: DType, hint: str) -> Value:
            return builder.emit("Cast", value, hint=hint, loc=node.loc, attrs={"to": to.onnx})

        if self.dtype == "bf16":
            builder.nodes.append(substitute(node, {layer.w: cast(w, DType.F32, f"{layer.w.name}_wide")}))
            return
        inputs = [cast(layer.x, DType.F16, f"{layer.x.name}_f16"), w]
        if layer.bias is not None:
            inputs.append(cast(layer.bias, DType.F16, f"{layer.bias.name}_f16"))
        narrow = builder.emit(node.op, *inputs, hint=f"{node.output.name}_f16", loc=node.loc, attrs=dict(node.attrs))
        wide = cast(narrow, DType.F32, node.output.name)
        builder.nodes[-1] = rename_outputs(builder.nodes[-1], {wide: node.output})
