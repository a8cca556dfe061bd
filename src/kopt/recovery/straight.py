"""Quantization that gradients pass through: the value is that of the rounded one, the gradient that of the exact one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kopt.ir.constant import Constant
from kopt.ir.graph import KOPT, Graph, Node, Value
from kopt.ir.spec import type_rule
from kopt.ir.types import Type
from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@type_rule(KOPT, "StraightThrough")
def straight_through_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """That of the exact value."""
    (exact, _) = types
    return () if exact is None else (exact,)


@lowers("StraightThrough", domain=KOPT)
def straight_through(_: LoweringContext, exact: Array, rounded: Array) -> Array:
    """The rounded value; its gradient goes to the exact one."""
    return exact + jax.lax.stop_gradient(rounded - exact)


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight that a file stores as integers.

    Attributes:
        value: the stored constant, by its value in the original graph.
        floats: what DequantizeLinear makes of it, a constant of the training graph.
        scale, zero: spread over the weight's shape, f32.
        low, high: the integers in use.
    """

    value: Value
    floats: Value
    scale: np.ndarray
    zero: np.ndarray
    low: float
    high: float

    def rounded(self, latent: Any) -> Any:
        """What the file would hold for a latent weight, as floats."""
        steps = jnp.clip(jnp.round(latent / self.scale) + self.zero, self.low, self.high) - self.zero
        value = steps * self.scale
        return latent + jax.lax.stop_gradient(value - latent)

    def stored(self, latent: np.ndarray) -> np.ndarray:
        """The integers of a latent weight."""
        steps = np.clip(np.round(latent / self.scale) + self.zero, self.low, self.high)
        result: np.ndarray = steps.astype(self.value.tensor.dtype.numpy)
        return result


def straightened(graph: Graph) -> tuple[Graph, list[StoredWeight]]:
    """The graph for training: stored weights as floats, and activations that are quantized and dequantized passing gradients.

    Args:
        graph: static types.
    """
    stored: list[StoredWeight] = []
    constants = dict(graph.constants)
    replaced: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(None if value is None else replaced.get(value, value) for value in node.inputs)
        new = node if inputs == node.inputs else node.replace(inputs=inputs)
        if node.op != "DequantizeLinear" or node.domain:
            nodes.append(new)
            continue
        weight = _stored(graph, node)
        if weight is not None:
            stored.append(weight)
            array = graph.constants[weight.value].array().astype(np.float32)
            constants[weight.floats] = Constant.of(((array - weight.zero) * weight.scale).astype(np.float32))
            continue
        source = graph.producer(node.inputs[0])
        nodes.append(new)
        if source is not None and source.op == "QuantizeLinear" and source.inputs[0] is not None:
            exact = replaced.get(source.inputs[0], source.inputs[0])
            passed = Value(f"{node.output.name}.straight", node.output.type)
            nodes.append(Node("StraightThrough", (exact, node.output), (passed,), loc=node.loc, domain=KOPT, version=1))
            replaced[node.output] = passed
    outputs = tuple(replaced.get(value, value) for value in graph.outputs)
    return graph.replace(nodes=tuple(nodes), constants=constants, outputs=outputs), stored


def _stored(graph: Graph, node: Node) -> StoredWeight | None:
    """The stored weight that a DequantizeLinear reads; None where it reads something else."""
    value = node.inputs[0]
    array, scale = graph.constant(value), graph.constant(node.input(1))
    if value is None or array is None or scale is None or array.ndim < 2 or value.tensor.dtype.is_float:
        return None
    held = graph.constant(node.input(2))
    spread = _spreader(node, array.shape)
    zero = np.zeros(array.shape, np.float32) if held is None else spread(held.astype(np.float32))
    whole = array.astype(np.float32)
    return StoredWeight(value, node.output, spread(scale.astype(np.float32)), zero, float(whole.min()), float(whole.max()))


def _spreader(node: Node, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Spreads scales of the whole weight, of slices, or of blocks over its shape."""
    axis = int(node.attrs.get("axis", 1)) % len(shape)  # type: ignore[arg-type]
    block = int(node.attrs.get("block_size", 0))  # type: ignore[arg-type]

    def spread(array: np.ndarray) -> np.ndarray:
        if array.size == 1:
            return np.full(shape, array.reshape(-1)[0], np.float32)
        if array.ndim == 1:
            array = array.reshape([-1 if k == axis else 1 for k in range(len(shape))])
        elif block:
            array = np.take(np.repeat(array, block, axis), np.arange(shape[axis]), axis)
        return np.broadcast_to(array, shape).astype(np.float32)

    return spread
