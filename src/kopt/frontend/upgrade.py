"""Brings a node of any older opset to the canonical one, op by op.

Each rule states which versions it is for and what changed. Rules may return several nodes; the last one makes the original
outputs. Source of every rule: the ONNX operator changelog.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from kopt.errors import InvalidModelError, Location
from kopt.ir.constant import Constant
from kopt.ir.graph import Attr, Value
from kopt.ir.types import TensorType


@dataclass(frozen=True)
class RawNode:
    """A node between file and graph: inputs are values, or names that an earlier node of the same rule makes."""

    op: str
    domain: str
    inputs: list[Value | str | None]
    outputs: list[str]
    attrs: dict[str, Attr]
    loc: Location

    def without(self, *names: str) -> RawNode:
        """A copy that lacks the named attributes."""
        return replace(self, attrs={name: value for name, value in self.attrs.items() if name not in names})

    def input_type(self, index: int) -> TensorType:
        """The tensor type of an input.

        Raises:
            InvalidModelError: absent, or not a tensor.
        """
        value = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(value, Value) or not isinstance(value.type, TensorType):
            raise InvalidModelError(f"{self.op} needs a tensor as input {index}", where=self.loc, next_step="export the model again")
        return value.type

    def rank(self, index: int) -> int:
        """The rank of an input.

        Raises:
            InvalidModelError: unknown rank.
        """
        rank = self.input_type(index).rank
        if rank is None:
            raise InvalidModelError(
                f"{self.op} of this opset needs the rank of input {index}", where=self.loc, next_step="declare the input's shape"
            )
        return rank


@dataclass(frozen=True)
class Emitter:
    """Makes the constants and names that rules need."""

    constants: dict[Value, Constant]
    fresh: Callable[[str], str]

    def constant(self, array: np.typing.ArrayLike, hint: str = "const") -> Value:
        """A new constant of the graph being read."""
        held = Constant.of(array)
        value = Value(self.fresh(hint), held.type)
        self.constants[value] = held
        return value

    def ints(self, values: Attr | Sequence[int]) -> Value:
        """A new i64 vector."""
        return self.constant(np.asarray(values, np.int64))


Rule: TypeAlias = Callable[[RawNode, int, Emitter], Sequence[RawNode]]
_RULES: dict[str, tuple[int, Rule]] = {}
_LEGACY_ATTRS = frozenset({"consumed_inputs"})


def _before(version: int, *ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for nodes of ``ops`` below ``version``."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            _RULES[op] = (version, rule)
        return rule

    return register


def upgrade(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """The node in canonical form, given the version of its domain that the model imports."""
    if node.domain:
        return (node,)
    node = node.without(*_LEGACY_ATTRS)
    below, rule = _RULES.get(node.op, (0, None))
    if rule is None or version >= below:
        return (node,)
    try:
        return rule(node, version, emit)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InvalidModelError(
            f"{node.op} of opset {version} lacks an input or attribute, or has one of the wrong kind ({error})",
            where=node.loc,
            next_step="see the operator's ONNX specification",
        ) from error


def _attr_to_input(node: RawNode, name: str, index: int, emit: Emitter) -> RawNode:
    """Move an attribute of integers to an input position."""
    if name not in node.attrs:
        return node
    inputs = [*node.inputs, *[None] * (index - len(node.inputs))]
    inputs[index:] = [emit.ints(node.attrs[name])]
    return replace(node.without(name), inputs=inputs)


@_before(18, *(f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")))
@_before(13, "ReduceSum", "Squeeze", "Unsqueeze")
def _axes(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Reduce*(x, axes=...) ==> Reduce*(x, axes)."""
    del version
    return (_attr_to_input(node, "axes", 1, emit),)


@_before(18, "Split")
def _split(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Split(x, split=...) ==> Split(x, split); an even split states the number of outputs."""
    if version < 13:
        node = _attr_to_input(node, "split", 1, emit)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return (node,)
    return (replace(node, attrs={**node.attrs, "num_outputs": len(node.outputs)}),)


@_before(10, "Slice")
def _slice(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Slice(x, starts=..., ends=..., axes=...) ==> Slice(x, starts, ends, axes)."""
    del version
    for index, name in enumerate(("starts", "ends", "axes"), 1):
        node = _attr_to_input(node, name, index, emit)
    return (node,)


@_before(11, "Pad")
def _pad(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Pad(x, pads=..., value=v) ==> Pad(x, pads, v)."""
    del version
    pads = node.attrs.get("pads", node.attrs.get("paddings"))
    value = emit.constant(np.asarray(node.attrs.get("value", 0.0)).astype(node.input_type(0).dtype.numpy))
    return (replace(node.without("pads", "paddings", "value"), inputs=[node.inputs[0], emit.ints(pads or ()), value]),)


@_before(11, "Clip")
def _clip(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Clip(x, min=a, max=b) ==> Clip(x, a, b)."""
    del version
    dtype = node.input_type(0).dtype.numpy
    bounds = [emit.constant(np.asarray(node.attrs[name], dtype)) if name in node.attrs else None for name in ("min", "max")]
    return (replace(node.without("min", "max"), inputs=[node.inputs[0], *bounds]),)


@_before(10, "TopK")
def _topk(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """TopK(x, k=5) ==> TopK(x, [5])."""
    del version
    return (replace(node.without("k"), inputs=[node.inputs[0], emit.constant(np.asarray([node.attrs["k"]], np.int64))]),)


_ASYMMETRIC: dict[str, Attr] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@_before(99, "Upsample")
def _upsample(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Upsample(x, scales) ==> Resize(x, , scales), asymmetric and rounding down."""
    mode = {"bilinear": "linear"}.get(str(node.attrs.get("mode", "nearest")), node.attrs.get("mode", "nearest"))
    if version >= 9:
        scales = node.inputs[1]
    elif "scales" in node.attrs:
        scales = emit.constant(np.asarray(node.attrs["scales"], np.float32))
    else:
        scales = emit.constant(np.asarray([1, 1, node.attrs["height_scale"], node.attrs["width_scale"]], np.float32))
    return (replace(node, op="Resize", inputs=[node.inputs[0], None, scales], attrs={"mode": mode, **_ASYMMETRIC}),)


@_before(99, "Resize")
def _resize(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Resize-10(x, scales) ==> Resize(x, , scales), asymmetric and rounding down; empty roi and scales ==> absent ones."""
    if version < 11:
        return (replace(node, inputs=[node.inputs[0], None, node.inputs[1]], attrs={**node.attrs, **_ASYMMETRIC}),)
    if node.attrs.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise InvalidModelError("Resize with tf_half_pixel_for_nn left ONNX at opset 13", where=node.loc, next_step="use half_pixel")
    inputs = list(node.inputs)
    for index in (1, 2):
        constant = emit.constants.get(value) if index < len(inputs) and isinstance(value := inputs[index], Value) else None
        if constant is not None and constant.type.size == 0:
            inputs[index] = None
    return (replace(node, inputs=inputs),)


@_before(12, "Dropout")
def _dropout(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Dropout(x, ratio=r) ==> Dropout(x, r); inference. A mask of opset below 10 had the element type of x."""
    ratio = emit.constant(np.asarray(node.attrs.get("ratio", 0.5), np.float32))
    plain = replace(node.without("ratio", "is_test"), inputs=[node.inputs[0], ratio])
    if version >= 10 or len(node.outputs) < 2 or not node.outputs[1]:
        return (plain,)
    mask = emit.fresh("mask")
    cast = RawNode("Cast", "", [mask], [node.outputs[1]], {"to": node.input_type(0).dtype.onnx}, node.loc)
    return (replace(plain, outputs=[node.outputs[0], mask]), cast)


@_before(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Softmax over all axes from ``axis`` on  ==>  Flatten, Softmax(axis=-1), Reshape back."""
    del version
    rank = node.rank(0)
    axis = int(node.attrs.get("axis", 1))  # type: ignore[arg-type]
    axis += rank if axis < 0 else 0
    if axis == rank - 1:
        return (replace(node, attrs={"axis": -1}),)
    flat, shape, result = emit.fresh("flat"), emit.fresh("shape"), emit.fresh("soft")
    return (
        RawNode("Flatten", "", [node.inputs[0]], [flat], {"axis": axis}, node.loc),
        RawNode(node.op, "", [flat], [result], {"axis": -1}, node.loc),
        RawNode("Shape", "", [node.inputs[0]], [shape], {}, node.loc),
        RawNode("Reshape", "", [result, shape], node.outputs, {"allowzero": 1}, node.loc),
    )


@_before(14, "BatchNormalization")
def _batch_norm(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Inference keeps one output; ``spatial`` and ``is_test`` are gone."""
    del emit
    if version < 9 and node.attrs.get("spatial", 1) != 1:
        raise InvalidModelError(
            "BatchNormalization with spatial=0 is not supported", where=node.loc, next_step="export at opset 9 or newer"
        )
    if any(node.outputs[1:]):
        raise InvalidModelError(
            "BatchNormalization in training mode is not supported below opset 14",
            where=node.loc,
            next_step="export the model for inference",
        )
    return (replace(node.without("spatial", "is_test"), outputs=node.outputs[:1]),)


@_before(6, "Cast")
def _cast(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Cast(to="FLOAT") ==> Cast(to=1)."""
    del version, emit
    to = node.attrs["to"]
    names = {
        "FLOAT": 1,
        "UINT8": 2,
        "INT8": 3,
        "UINT16": 4,
        "INT16": 5,
        "INT32": 6,
        "INT64": 7,
        "STRING": 8,
        "BOOL": 9,
        "FLOAT16": 10,
        "DOUBLE": 11,
    }
    return (replace(node, attrs={"to": names[str(to).upper()] if isinstance(to, str) else to}),)


@_before(7, "Gemm")
def _gemm(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Broadcasting of C is implicit."""
    del version, emit
    return (node.without("broadcast"),)


@_before(7, "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "Greater")
def _broadcast(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """op(a, b, broadcast=1, axis=k) ==> op(a, Unsqueeze(b, trailing axes))."""
    del version
    plain = node.without("broadcast", "axis")
    if not node.attrs.get("broadcast") or "axis" not in node.attrs:
        return (plain,)
    rank, held = node.rank(0), node.rank(1)
    axis = int(node.attrs["axis"]) % rank  # type: ignore[arg-type]
    trailing = rank - axis - held
    if trailing <= 0:
        return (plain,)
    widened = emit.fresh("widened")
    axes = emit.ints(range(held, held + trailing))
    return (
        RawNode("Unsqueeze", "", [node.inputs[1], axes], [widened], {}, node.loc),
        replace(plain, inputs=[node.inputs[0], widened]),
    )


@_before(7, "PRelu")
def _prelu(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """A slope per channel lines up with axis 1."""
    del version
    rank, held = node.rank(0), node.rank(1)
    if held != 1 or rank <= 2 or node.input_type(1).shape == (1,):
        return (node,)
    widened = emit.fresh("slope")
    return (
        RawNode("Unsqueeze", "", [node.inputs[1], emit.ints(range(1, rank - 1))], [widened], {}, node.loc),
        replace(node, inputs=[node.inputs[0], widened]),
    )


@_before(5, "Reshape")
def _reshape(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Reshape(x, shape=...) ==> Reshape(x, shape)."""
    del version
    return (_attr_to_input(node, "shape", 1, emit),)


@_before(4, "Concat")
def _concat(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """The axis was 1 by default."""
    del version, emit
    return (replace(node, attrs={"axis": 1, **node.attrs}),)


@_before(99, "Scatter")
def _scatter(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Scatter ==> ScatterElements."""
    del version, emit
    return (replace(node, op="ScatterElements"),)


@_before(6, "Tile")
def _tile(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Tile-1(x, tiles, axis) with constants ==> Tile(x, repeats)."""
    del version
    tiles, axis = (emit.constants.get(value) if isinstance(value, Value) else None for value in node.inputs[1:3])
    if tiles is None or axis is None:
        raise InvalidModelError("Tile of opset 1 needs constant tiles and axis", where=node.loc, next_step="export at opset 6 or newer")
    repeats = np.ones(node.rank(0), np.int64)
    repeats[int(axis.array().item())] = int(tiles.array().item())
    return (replace(node, inputs=[node.inputs[0], emit.ints(repeats.tolist())]),)


@_before(21, "GroupNormalization")
def _group_norm(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Scale and bias per group ==> per channel."""
    del version
    shape = node.input_type(0).shape
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    groups = int(node.attrs["num_groups"])  # type: ignore[arg-type]
    if not isinstance(channels, int):
        raise InvalidModelError(
            "GroupNormalization of opset 18 needs a known number of channels", where=node.loc, next_step="declare the shape of its input"
        )
    added: list[RawNode] = []
    inputs: list[Value | str | None] = [node.inputs[0]]
    for value in node.inputs[1:3]:
        names = [emit.fresh("group") for _ in range(3)]
        added.append(RawNode("Reshape", "", [value, emit.ints([groups, 1])], [names[0]], {}, node.loc))
        added.append(RawNode("Expand", "", [names[0], emit.ints([groups, channels // groups])], [names[1]], {}, node.loc))
        added.append(RawNode("Reshape", "", [names[1], emit.ints([channels])], [names[2]], {}, node.loc))
        inputs.append(names[2])
    return (*added, replace(node, inputs=inputs))


@_before(20, "DFT")
def _dft(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """DFT(x, length, axis=k) ==> DFT(x, length, k)."""
    del version
    inputs = [*node.inputs, None][:2]
    return (replace(node.without("axis"), inputs=[*inputs, emit.constant(np.int64(node.attrs.get("axis", 1)))]),)  # type: ignore[arg-type]


@_before(20, "GridSample")
def _grid_sample(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Bilinear and bicubic became linear and cubic."""
    del version, emit
    mode = str(node.attrs.get("mode", "bilinear"))
    return (replace(node, attrs={**node.attrs, "mode": {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)}),)


@_before(16, "RoiAlign")
def _roi_align(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """Coordinates were not shifted by half a pixel."""
    del version, emit
    return (replace(node, attrs={"coordinate_transformation_mode": "output_half_pixel", **node.attrs}),)


@_before(9, "MeanVarianceNormalization")
def _mvn(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """across_channels ==> axes."""
    del version, emit
    axes = (0, 1, 2, 3) if node.attrs.get("across_channels") else (0, 2, 3)
    return (replace(node, attrs={"axes": axes}),)


@_before(7, "RNN", "LSTM", "GRU")
def _recurrent(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """The flag that asked for the whole sequence is gone."""
    del version, emit
    return (node.without("output_sequence"),)


@_before(2, "LpPool", "GlobalLpPool", "LpNormalization")
def _lp(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """The order p was a float."""
    del version, emit
    return (replace(node, attrs={**node.attrs, "p": int(float(node.attrs.get("p", 2)))}),)  # type: ignore[arg-type]


@_before(6, "Selu")
def _selu(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """The defaults had fewer digits."""
    del version, emit
    return (replace(node, attrs={"alpha": 1.6732, "gamma": 1.0507, **node.attrs}),)


@_before(99, "SimplifiedLayerNormalization")
def _simplified_norm(node: RawNode, version: int, emit: Emitter) -> Sequence[RawNode]:
    """ONNX Runtime's name of RMSNormalization, which has no second output: that is 1 / sqrt(mean(x^2) + epsilon)."""
    del version
    plain = replace(node, op="RMSNormalization", outputs=node.outputs[:1])
    if not any(node.outputs[1:]):
        return (plain,)
    axis, dtype = int(node.attrs.get("axis", -1)), node.input_type(0).dtype.numpy  # type: ignore[arg-type]
    axes = emit.ints([axis] if axis == -1 else range(axis % node.rank(0), node.rank(0)))
    epsilon = emit.constant(np.asarray(node.attrs.get("epsilon", 1e-5), dtype))
    square, mean, total, root = (emit.fresh("norm") for _ in range(4))
    return (
        plain,
        RawNode("Mul", "", [node.inputs[0], node.inputs[0]], [square], {}, node.loc),
        RawNode("ReduceMean", "", [square, axes], [mean], {}, node.loc),
        RawNode("Add", "", [mean, epsilon], [total], {}, node.loc),
        RawNode("Sqrt", "", [total], [root], {}, node.loc),
        RawNode("Reciprocal", "", [root], [node.outputs[1]], {}, node.loc),
    )
