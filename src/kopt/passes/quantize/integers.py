"""Reading QuantizeLinear and DequantizeLinear: which numbers lie behind a value, as integer operators take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import DType

NARROW = frozenset({DType.U8, DType.I8})


@dataclass(frozen=True)
class Narrow:
    """A value held in 8 bits, one scale for all of it.

    Attributes:
        value: u8 or i8.
        scale: f32 scalar.
        zero_point: of value's type; None for 0.
    """

    value: Value
    scale: Value
    zero_point: Value | None


@dataclass(frozen=True)
class Weight:
    """Constant weights in symmetric 8 bits.

    Attributes:
        array: i8.
        scale: f32, a scalar or one per output channel.
    """

    array: np.ndarray
    scale: np.ndarray


def narrow(graph: Graph, value: Value | None) -> Narrow | None:
    """What DequantizeLinear makes ``value`` of; None where it does not, or with several scales."""
    node = graph.producer(value)
    return None if node is None else dequantized(graph, node)


def dequantized(graph: Graph, node: Node) -> Narrow | None:
    """What a DequantizeLinear reads; None for anything else, for constants, and with several scales."""
    if node.op != "DequantizeLinear" or node.domain or node.output.tensor.dtype is not DType.F32:
        return None
    held, scale, zero = node.input(0), node.input(1), node.input(2)
    if held is None or scale is None or held in graph.constants or held.tensor.dtype not in NARROW or not is_scalar(scale):
        return None
    if zero is not None and not is_scalar(zero):
        return None
    return Narrow(held, scale, zero)


def requantized(node: Node | None) -> tuple[Value, Value | None] | None:
    """Scale and zero point of a QuantizeLinear to 8 bits per tensor, None for anything else."""
    if node is None or node.op != "QuantizeLinear" or node.domain or node.output.tensor.dtype not in NARROW:
        return None
    scale, zero = node.input(1), node.input(2)
    if scale is None or not is_scalar(scale) or scale.tensor.dtype is not DType.F32 or (zero is not None and not is_scalar(zero)):
        return None
    if zero is None and node.output.tensor.dtype is not DType.U8:
        return None
    return scale, zero


def weight(graph: Graph, value: Value | None, axis: int) -> Weight | str:
    """Constant weights behind ``value`` with output channels along ``axis``, or why there are none.

    Zero points are folded into the weights where the result still fits 8 bits.
    """
    node = graph.producer(value)
    if node is None or node.op != "DequantizeLinear" or node.domain:
        return "its weights are not quantized"
    held, scale, zero = (graph.constant(node.input(k)) for k in range(3))
    if held is None or scale is None or (node.input(2) is not None and zero is None):
        return "its weights are not constant"
    if held.dtype not in (np.int8, np.uint8) or scale.dtype != np.float32:
        return f"its weights are {held.dtype}"
    along = node.attrs.get("axis", 1)
    if scale.size > 1 and (scale.ndim != 1 or not isinstance(along, int) or along % held.ndim != axis):
        return "its weights have scales along another axis"
    wide = held.astype(np.int32)
    if zero is not None:
        shape = [-1 if k == axis else 1 for k in range(held.ndim)] if zero.size > 1 else [1] * held.ndim
        wide = wide - zero.astype(np.int32).reshape(shape)
    if wide.size and (wide.min() < -128 or wide.max() > 127):
        return "its weights have zero points"
    return Weight(wide.astype(np.int8), scale.reshape(()) if scale.size == 1 else scale)


def constant_f32(graph: Graph, value: Value | None) -> np.ndarray | None:
    """A constant of f32, also one behind a DequantizeLinear; None for anything else."""
    found = graph.constant(value)
    if found is not None:
        return found if found.dtype == np.float32 else None
    node = graph.producer(value)
    if node is None or node.op != "DequantizeLinear" or node.domain or value is None or value.tensor.dtype is not DType.F32:
        return None
    held, scale, zero = (graph.constant(node.input(k)) for k in range(3))
    if held is None or scale is None or held.ndim != 1 or (node.input(2) is not None and zero is None):
        return None
    wide = held.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))
    return np.asarray(wide.astype(np.float32) * scale.astype(np.float32))


def is_scalar(value: Value) -> bool:
    """Whether a value is one number."""
    return value.tensor.shape in ((), (1,))


def only_reader(graph: Graph, value: Value) -> Node | None:
    """The node that reads a value, None where there are several or the value is an output."""
    uses = graph.uses(value)
    return uses[0].node if len(uses) == 1 else None


def saturates(graph: Graph, zero: Value | None) -> bool:
    """Whether a zero point lies at an end of the range, so that quantizing may stand for a Relu; True where it is not known."""
    found = graph.constant(zero)
    if found is None or found.dtype not in (np.int8, np.uint8):
        return True
    limits = np.iinfo(found.dtype)
    return int(found.item()) in (limits.min, limits.max)
