"""Fuse expanding product, depthwise convolution and projecting product into one node, for a kernel that never writes the wide image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kopt.ir.builder import Builder
from kopt.ir.graph import KOPT, Attr, Graph, Node, Value
from kopt.ir.pattern import Match, Op, Pattern, Var, op
from kopt.ir.rewrite import rewrite, rule
from kopt.passes.base import PassContext, Skip, register


def _layer(x: Pattern, name: str, *rest: Pattern) -> Op:
    weights = (Var(f"{name}_w", constant=True), Var(f"{name}_b", optional=True))
    return op("FusedConvNhwc", x, *weights, *rest, as_=name, domain=KOPT)


_X, _RESIDUAL = Var("x"), Var("residual", optional=True)
_NARROW_BLOCK = _layer(_layer(_X, "slide"), "project", _RESIDUAL)
_BLOCK = _layer(_layer(_layer(_X, "expand"), "slide"), "project", _RESIDUAL)


def _is_product(node: Node) -> bool:
    """Whether a convolution over two axes multiplies every pixel by one matrix."""
    shape, attrs = node.inputs[1].tensor.shape or () if node.inputs[1] else (), node.attrs
    plain = tuple(attrs.get("strides") or (1, 1)) == (1, 1) and not any(attrs.get("pads") or ())  # type: ignore[arg-type]
    return len(shape) == 4 and shape[2:] == (1, 1) and attrs["group"] == 1 and plain and attrs["auto_pad"] in ("NOTSET", "VALID")


def _is_depthwise(node: Node) -> bool:
    shape = node.inputs[1].tensor.shape or () if node.inputs[1] else ()
    return len(shape) == 4 and shape[1] == 1 and node.attrs["group"] == shape[0] and shape[0] != 1


def _activation(node: Node, prefix: str = "") -> dict[str, Attr]:
    params = node.attrs.get("activation_params")
    return {f"{prefix}activation": node.attrs["activation"], **({f"{prefix}activation_params": params} if params else {})}


def _fused(m: Match, b: Builder, expand: Node | None) -> Value | Skip:
    slide, project = m.node("slide"), m.node("project")
    if not _is_depthwise(slide) or not _is_product(project) or (expand is not None and not _is_product(expand)):
        return Skip("not a depthwise convolution between products")
    if expand is not None and _activation(expand) != _activation(slide):
        return Skip("the first two layers have different activations")
    if m.has("residual") and m["residual"] is not m["x"]:
        return Skip("what is added is not the block's input")
    first = (None, None) if expand is None else (m["expand_w"], m.values["expand_b"])
    inputs = (m["x"], *first, m["slide_w"], m.values["slide_b"], m["project_w"], m.values["project_b"])
    window = {name: slide.attrs[name] for name in ("auto_pad", "dilations", "pads", "strides") if name in slide.attrs}
    attrs = {**window, **_activation(slide), **_activation(project, "last_"), "residual": int(m.has("residual"))}
    output = m.root.output
    return b.emit_many("InvertedResidual", *inputs, attrs=attrs, domain=KOPT, types=[output.type], hint=output.name)[0]


@rule(_BLOCK)
def inverted_residual(m: Match, b: Builder) -> Value | Skip:
    """Product(Depthwise(Product(x))) [+ x]   ==>   InvertedResidual(x), the first two with the same activation."""
    return _fused(m, b, m.node("expand"))


@rule(_NARROW_BLOCK)
def separable_convolution(m: Match, b: Builder) -> Value | Skip:
    """Product(Depthwise(x)) [+ x]   ==>   InvertedResidual(x) without a first product."""
    return _fused(m, b, None)


@register
@dataclass(frozen=True)
class FuseInvertedResidual:
    """Fuse the layers of inverted residual blocks and separable convolutions; runs after fuse-epilogue.

    Attributes:
        max_rounds: bound on sweeps.
    """

    name: ClassVar[str] = "fuse-inverted-residual"
    max_rounds: int = 2

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with InvertedResidual nodes."""
        return rewrite(graph, (inverted_residual, separable_convolution), ctx, max_rounds=self.max_rounds)
