"""Masks of zeros in weights: they make files smaller once compressed, and nothing faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kopt.errors import UsageError
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Node, Value
from kopt.passes.base import PassContext, register

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")


def prunable(graph: Graph) -> list[tuple[Value, int, Node]]:
    """Constant float weights of products and convolutions, each with its summed axis and the first node that reads it."""
    found: dict[Value, tuple[int, Node]] = {}
    for node in graph.nodes:
        for index, value in enumerate(node.inputs[:2]):
            if node.op in WEIGHTED and value is not None and value in graph.constants and value.tensor.dtype.is_float:
                rank = len(value.tensor.shape or ())
                if rank > 1 and value not in found:
                    found[value] = _summed_axis(node, index, rank), node
    return [(value, axis, node) for value, (axis, node) in found.items()]


def _summed_axis(node: Node, index: int, rank: int) -> int:
    if "Conv" in node.op:
        return 0 if node.op == "ConvTranspose" else 1
    transposed = bool(node.attrs.get("transB" if index else "transA"))
    return rank - 2 if (index == 1) != transposed else rank - 1


def _sizes(graph: Graph, energies: Mapping[Value, np.ndarray] | None) -> dict[Value, np.ndarray]:
    """How large each weight is: |w|, times the root mean square of its input where that is known."""
    found = {}
    for value, axis, _ in prunable(graph):
        array = np.abs(np.asarray(graph.constants[value].array(), np.float32))
        energy = (energies or {}).get(value)
        if energy is not None and len(energy) == array.shape[axis]:
            array = array * np.sqrt(energy).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(array.ndim)])
        found[value] = array
    return found


def magnitude_masks(graph: Graph, sparsity: float, energies: Mapping[Value, np.ndarray] | None = None) -> dict[Value, np.ndarray]:
    """True where a weight stays: over all layers together the largest, each in units of its layer's standard deviation.

    Every layer keeps a twentieth, since one that is all zeros carries nothing.

    Args:
        graph: the model.
        sparsity: share of zeros.
        energies: by weight, E[x^2] of what each coordinate of its summed axis is multiplied with.
    """
    weights = _sizes(graph, energies)
    scaled = {value: array / max(float(np.sqrt(np.square(array).mean())), 1e-30) for value, array in weights.items()}
    if not scaled:
        return {}
    limit = float(np.quantile(np.concatenate([array.ravel() for array in scaled.values()]), sparsity))
    return {value: array > min(limit, float(np.quantile(array, 0.95))) for value, array in scaled.items()}


def block_masks(graph: Graph, kept: int, block: int, energies: Mapping[Value, np.ndarray] | None = None) -> dict[Value, np.ndarray]:
    """True for the ``kept`` largest of every ``block`` neighbours along the summed axis; axes that do not divide stay whole."""
    masks, sizes = {}, _sizes(graph, energies)
    for value, axis, _ in prunable(graph):
        array = np.moveaxis(sizes[value], axis, -1)
        if array.shape[-1] % block:
            continue
        blocks = array.reshape(-1, block)
        mask = np.argsort(np.argsort(-blocks, axis=1, kind="stable"), axis=1) < kept
        masks[value] = np.moveaxis(mask.reshape(array.shape), -1, axis)
    return masks


def masked(graph: Graph, masks: dict[Value, np.ndarray]) -> Graph:
    """The graph with zeros where a mask is False."""
    constants = dict(graph.constants)
    for value, mask in masks.items():
        array = graph.constants[value].array()
        constants[value] = Constant.of(np.where(mask, array, np.zeros((), array.dtype)))
    return graph.replace(constants=constants) if masks else graph


def block_pattern(text: str) -> tuple[int, int]:
    """(N, M) of "N:M".

    Raises:
        UsageError: not such a pattern.
    """
    kept, colon, block = text.partition(":")
    if not colon or not kept.isdigit() or not block.isdigit() or not 0 < int(kept) < int(block):
        raise UsageError(f"'{text}' is no pattern of zeros", next_step="write how many of how many neighbours stay, such as 2:4")
    return int(kept), int(block)


@register
@dataclass(frozen=True)
class MaskWeights:
    """Zeros in weights of products and convolutions: W  ==>  W * mask.

    Attributes:
        sparsity: share of zeros, where no pattern is given.
        pattern: "N:M", N of M neighbours along the summed axis stay; empty for the smallest weights anywhere.
    """

    name: ClassVar[str] = "mask-weights"
    sparsity: float = 0.5
    pattern: str = ""

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with zeros.

        Raises:
            UsageError: not a share, or not a pattern.
        """
        if not 0 <= self.sparsity < 1:
            raise UsageError(f"a sparsity of {self.sparsity} is no share", next_step="give a number from 0 to below 1, such as 0.7")
        masks = block_masks(graph, *block_pattern(self.pattern)) if self.pattern else magnitude_masks(graph, self.sparsity)
        ctx.applied("mask", len(masks))
        return masked(graph, masks)
