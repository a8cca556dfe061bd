"""Operators tied to the channel axis that are written out in ones that follow any layout, for ``kopt.passes.layout``.

Each rule applies only where its input is held in another layout than the user's. It emits nodes in the user's layout
and lets the sweep translate those, so that nothing here knows of any other layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from kopt.ir.graph import Attr, Node, Value
from kopt.ir.spec import CANONICAL_OPSET, default_attrs
from kopt.passes.layout_sweep import Sweep, layout_rule


def _moved(sweep: Sweep, node: Node) -> Value | None:
    """The first input, if it is held in another layout than the user's and only the first output is wanted."""
    source = node.input(0)
    if source is None or sweep.is_constant(source) or any(value is not None for value in node.outputs[1:]):
        return None
    perm = sweep.perm(source)
    return None if perm == tuple(range(len(perm))) else source


class _Writer:
    """Emits nodes in the user's layout at the place of one node; all of them have static shapes."""

    def __init__(self, sweep: Sweep, node: Node) -> None:
        self.sweep = sweep
        self.node = node

    def emit(self, op: str, *inputs: Value, shape: Sequence[int], out: Value | None = None, **attrs: Attr) -> Value:
        """One node; ``out`` where it makes the output of the node that is written out."""
        made = self.sweep.fresh(inputs[0], tuple(shape)) if out is None else out
        full: dict[str, Attr] = {**default_attrs(op), **attrs}
        self.sweep.visit(Node(op, inputs, (made,), full, self.node.loc, "", CANONICAL_OPSET))
        return made

    def reshape(self, x: Value, shape: Sequence[int], out: Value | None = None) -> Value:
        """Reshape to a fixed shape; a constant stays one."""
        array = self.sweep.array(x)
        if array is not None and out is None:
            return self.sweep.constant(array.reshape(tuple(shape)), x.name)
        return self.emit("Reshape", x, self.sweep.ints(shape, "shape"), shape=shape, out=out)

    def scalar(self, value: float, like: Value) -> Value:
        """A constant of the element type of ``like``."""
        return self.sweep.constant(np.asarray(value, like.tensor.dtype.numpy), "scalar")

    def normalize(self, x: Value, axes: Sequence[int], epsilon: float) -> Value:
        """(x - mean) / sqrt(variance + epsilon) over ``axes``."""
        shape = x.shape
        one = tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))
        index = self.sweep.ints(list(axes), "axes")
        mean = self.emit("ReduceMean", x, index, shape=one, keepdims=1)
        centered = self.emit("Sub", x, mean, shape=shape)
        square = self.emit("Mul", centered, centered, shape=shape)
        variance = self.emit("ReduceMean", square, index, shape=one, keepdims=1)
        shifted = self.emit("Add", variance, self.scalar(epsilon, x), shape=one)
        return self.emit("Div", centered, self.emit("Sqrt", shifted, shape=one), shape=shape)

    def affine(self, x: Value, scale: Value, bias: Value, out: Value) -> None:
        """Scale and shift each channel, the second axis of ``x``: x * scale + bias."""
        per_channel = (x.shape[1], *[1] * (len(x.shape) - 2))
        scaled = self.emit("Mul", x, self.reshape(scale, per_channel), shape=x.shape)
        self.emit("Add", scaled, self.reshape(bias, per_channel), shape=x.shape, out=out)


@layout_rule("BatchNormalization")
def batch_normalization(sweep: Sweep, node: Node) -> bool:
    """BatchNormalization(x, scale, bias, mean, var)  ==>  Add(Mul(x, k), c), all four statistics constant.

    k = scale / sqrt(var + epsilon) and c = bias - mean * k, one per channel. Source: ONNX BatchNormalization-15, inference.
    """
    x = _moved(sweep, node)
    arrays = [sweep.array(value) for value in node.inputs[1:5]]
    if x is None or node.attrs.get("training_mode") or len(x.shape) < 2:
        return False
    scale, bias, mean, variance = (None if array is None else array.astype(np.float64) for array in arrays)
    if scale is None or bias is None or mean is None or variance is None:
        return False
    epsilon = float(node.attrs.get("epsilon", 1e-5))  # type: ignore[arg-type]
    factor = scale / np.sqrt(variance + epsilon)
    dtype = x.tensor.dtype.numpy
    write = _Writer(sweep, node)
    per_channel = (-1, *[1] * (len(x.shape) - 2))
    k = sweep.constant(factor.reshape(per_channel).astype(dtype), "scale")
    c = sweep.constant((bias - mean * factor).reshape(per_channel).astype(dtype), "bias")
    write.emit("Add", write.emit("Mul", x, k, shape=x.shape), c, shape=x.shape, out=node.output)
    return True


@layout_rule("InstanceNormalization")
def instance_normalization(sweep: Sweep, node: Node) -> bool:
    """InstanceNormalization(x, scale, bias)  ==>  (x - mean) / sqrt(var + epsilon) * scale + bias, mean and var over the spatial axes.

    Source: ONNX InstanceNormalization-22.
    """
    x, scale, bias = _moved(sweep, node), node.input(1), node.input(2)
    if x is None or scale is None or bias is None or x.tensor.dtype.num_bits < 32:
        return False
    write = _Writer(sweep, node)
    normal = write.normalize(x, range(2, len(x.shape)), float(node.attrs.get("epsilon", 1e-5)))  # type: ignore[arg-type]
    write.affine(normal, scale, bias, node.output)
    return True


@layout_rule("GroupNormalization")
def group_normalization(sweep: Sweep, node: Node) -> bool:
    """GroupNormalization(x, scale, bias)  ==>  x as [N, groups, C / groups, ...], normalized over all but N and groups, * scale + bias.

    Source: ONNX GroupNormalization-21.
    """
    x, scale, bias = _moved(sweep, node), node.input(1), node.input(2)
    if x is None or scale is None or bias is None or x.tensor.dtype.num_bits < 32 or prod(x.shape) == 0:
        return False
    groups = int(node.attrs["num_groups"])  # type: ignore[arg-type]
    write = _Writer(sweep, node)
    split = write.reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    normal = write.normalize(split, range(2, len(split.shape)), float(node.attrs.get("epsilon", 1e-5)))  # type: ignore[arg-type]
    write.affine(write.reshape(normal, x.shape), scale, bias, node.output)
    return True


@layout_rule("DepthToSpace")
def depth_to_space(sweep: Sweep, node: Node) -> bool:
    """DepthToSpace(x)  ==>  Reshape(Transpose(Reshape(x))): b x b channels become a b times larger image.

    Source: ONNX DepthToSpace-13; mode DCR reads the channels as [b, b, C'], CRD as [C', b, b].
    """
    x = _moved(sweep, node)
    if x is None:
        return False
    n, channels, height, width = x.shape
    b = int(node.attrs["blocksize"])  # type: ignore[arg-type]
    depth = channels // (b * b)
    write = _Writer(sweep, node)
    dcr = node.attrs.get("mode", "DCR") == "DCR"
    split = write.reshape(x, (n, b, b, depth, height, width) if dcr else (n, depth, b, b, height, width))
    perm = (0, 3, 4, 1, 5, 2) if dcr else (0, 1, 4, 2, 5, 3)
    moved = write.emit("Transpose", split, shape=(n, depth, height, b, width, b), perm=perm)
    write.reshape(moved, node.output.shape, out=node.output)
    return True


@layout_rule("SpaceToDepth")
def space_to_depth(sweep: Sweep, node: Node) -> bool:
    """SpaceToDepth(x)  ==>  Reshape(Transpose(Reshape(x))): squares of b x b pixels become channels, [b, b, C] in that order.

    Source: ONNX SpaceToDepth-13.
    """
    x = _moved(sweep, node)
    if x is None:
        return False
    n, depth, height, width = x.shape
    b = int(node.attrs["blocksize"])  # type: ignore[arg-type]
    write = _Writer(sweep, node)
    split = write.reshape(x, (n, depth, height // b, b, width // b, b))
    moved = write.emit("Transpose", split, shape=(n, b, b, depth, height // b, width // b), perm=(0, 3, 5, 1, 2, 4))
    write.reshape(moved, node.output.shape, out=node.output)
    return True
