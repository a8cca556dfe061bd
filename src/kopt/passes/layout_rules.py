"""How each operator follows the layout of its inputs, for ``kopt.passes.layout``.

Below, ``T`` is a Transpose from the form in which a value is held to the user's layout, and ``axis'`` is where the
user's ``axis`` lies in that form. A rule declines (False) where the user's layout is as good, and then the node stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from kopt.ir.graph import KOPT, MICROSOFT, Node, Value
from kopt.ir.nhwc_types import NHWC_OPS, to_nhwc
from kopt.passes.layout_sweep import Perm, Sweep, layout_rule

CONV_OPS = ("Conv", "ConvTranspose")
POOL_OPS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool")

UNARY = (
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Dropout",
)
BROADCASTING = (
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
)
REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)


def identity(rank: int) -> Perm:
    """The permutation that moves nothing."""
    return tuple(range(rank))


def _held(sweep: Sweep, node: Node) -> tuple[Value, Value, Perm] | None:
    """The first input, the value that holds it and in which form; None where that is the user's layout."""
    source = node.input(0)
    if source is None or sweep.is_constant(source):
        return None
    held, perm = sweep.form(source)
    return None if perm == identity(len(perm)) else (source, held, perm)


def _rest(sweep: Sweep, node: Node, start: int = 1) -> tuple[Value | None, ...]:
    return tuple(sweep.plain(value) for value in node.inputs[start:])


def _emit_like(sweep: Sweep, node: Node, inputs: Sequence[Value | None], perm: Perm, **attrs: object) -> bool:
    """The same operator on other inputs; every output is made in the form ``perm``."""
    outputs = tuple(None if value is None else sweep.output(value, perm) for value in node.outputs)
    sweep.add(node.replace(inputs=tuple(inputs), outputs=outputs, attrs={**node.attrs, **attrs}))
    return True


def _to_kopt(sweep: Sweep, node: Node) -> bool:
    name, activations = NHWC_OPS[node.domain, node.op]
    perm = to_nhwc(len(node.output.shape))
    inputs = tuple(
        None if value is None else sweep.request(value, perm) if index in activations else sweep.plain(value)
        for index, value in enumerate(node.inputs)
    )
    sweep.add(node.replace(op=name, domain=KOPT, version=1, inputs=inputs, outputs=(sweep.output(node.output, perm),)))
    sweep.ctx.applied(name)
    return True


@layout_rule(*CONV_OPS)
@layout_rule("FusedConv", domain=MICROSOFT)
def convolution(sweep: Sweep, node: Node) -> bool:
    """Conv(x, w, b)  ==>  T(ConvNhwc(transpose(x), w, b))."""
    return _to_kopt(sweep, node)


@layout_rule(*POOL_OPS)
def pool(sweep: Sweep, node: Node) -> bool:
    """MaxPool(T(x))  ==>  T(MaxPoolNhwc(x)), where x is channels-last already and no indices are asked for."""
    found = _held(sweep, node)
    if found is None or found[2] != to_nhwc(len(found[2])) or any(value is not None for value in node.outputs[1:]):
        return False
    return _to_kopt(sweep, node.replace(outputs=node.outputs[:1]))


@layout_rule("GlobalMaxPool", "GlobalLpPool")
def global_pool(sweep: Sweep, node: Node) -> bool:
    """GlobalMaxPool(T(x))  ==>  T(ReduceMax(x, axes=spatial', keepdims=1)); the norms of p = 1 and 2 are ReduceL1 and ReduceL2."""
    found = _held(sweep, node)
    norm = node.attrs.get("p")
    if found is None or norm not in (None, 1, 2):
        return False
    reduce = "ReduceMax" if norm is None else f"ReduceL{norm}"
    _, held, perm = found
    axes = sweep.ints(sorted(perm.index(axis) for axis in range(2, len(perm))), "axes")
    sweep.emit(reduce, (held, axes), sweep.output(node.output, perm), attrs={"keepdims": 1})
    return True


@layout_rule("Transpose")
def transpose(sweep: Sweep, node: Node) -> bool:
    """Transpose(x)  ==>  nothing: its output is x seen through a permutation."""
    source = node.input(0)
    if source is None or sweep.is_constant(source):
        return False
    rank = len(source.shape)
    given = node.attrs.get("perm")
    perm = tuple(int(axis) for axis in given) if isinstance(given, tuple) else tuple(reversed(range(rank)))  # type: ignore[arg-type]
    sweep.view(node.output, source, perm)
    return True


@layout_rule(*UNARY)
def unary(sweep: Sweep, node: Node) -> bool:
    """Relu(T(x))  ==>  T(Relu(x)); further inputs (the bounds of Clip) are scalars."""
    found = _held(sweep, node)
    if found is None:
        return False
    return _emit_like(sweep, node, (found[1], *_rest(sweep, node)), found[2])


@layout_rule(*BROADCASTING)
def broadcasting(sweep: Sweep, node: Node) -> bool:
    """Add(T(x), T(y))  ==>  T(Add(x, y)), and Add(T(x), c)  ==>  T(Add(x, c')) with the constant c laid out now."""
    operands = [value for value in node.inputs if value is not None]
    rank = len(node.output.shape)
    perm = sweep.choose(operands, rank)
    if perm == identity(rank):
        return False
    return _emit_like(sweep, node, [None if value is None else sweep.request_aligned(value, perm) for value in node.inputs], perm)


@layout_rule("Concat")
def concat(sweep: Sweep, node: Node) -> bool:
    """Concat(T(x), T(y), axis)  ==>  T(Concat(x, y, axis'))."""
    operands = [value for value in node.inputs if value is not None]
    rank = len(node.output.shape)
    perm = sweep.choose(operands, rank)
    if perm == identity(rank):
        return False
    axis = perm.index(_attr(node, "axis") % rank)
    return _emit_like(sweep, node, [sweep.request(value, perm) for value in operands], perm, axis=axis)


def _attr(node: Node, name: str, default: int = 0) -> int:
    return int(node.attrs.get(name, default))  # type: ignore[arg-type]


@layout_rule("Softmax", "LogSoftmax", "Hardmax", "Split", "LpNormalization")
def along_axis(sweep: Sweep, node: Node) -> bool:
    """Softmax(T(x), axis)  ==>  T(Softmax(x, axis')); likewise Split, whose sizes stay."""
    found = _held(sweep, node)
    if found is None:
        return False
    _, held, perm = found
    default = {"Split": 0}.get(node.op, -1)
    return _emit_like(sweep, node, (held, *_rest(sweep, node)), perm, axis=perm.index(_attr(node, "axis", default) % len(perm)))


@layout_rule("QuantizeLinear", "DequantizeLinear")
def quantize(sweep: Sweep, node: Node) -> bool:
    """QuantizeLinear(T(x), scale, zero_point, axis)  ==>  T(QuantizeLinear(x, scale, zero_point, axis')); blocked scales decline."""
    found = _held(sweep, node)
    scale = node.input(1)
    if found is None or scale is None or len(scale.shape) > 1:
        return False
    _, held, perm = found
    axis = {"axis": perm.index(_attr(node, "axis", 1) % len(perm))} if len(scale.shape) == 1 else {}
    return _emit_like(sweep, node, (held, *_rest(sweep, node)), perm, **axis)


@layout_rule("LayerNormalization", "RMSNormalization")
def normalize_suffix(sweep: Sweep, node: Node) -> bool:
    """LayerNormalization(T(x), axis)  ==>  T(LayerNormalization(x, axis)) where the axes from ``axis`` on are not moved."""
    found = _held(sweep, node)
    if found is None or any(value is not None for value in node.outputs[1:]):
        return False
    _, held, perm = found
    axis = _attr(node, "axis", -1) % len(perm)
    if perm[axis:] != identity(len(perm))[axis:]:
        return False
    return _emit_like(sweep, node, (held, *_rest(sweep, node)), perm)


@layout_rule(*REDUCTIONS)
def reduce(sweep: Sweep, node: Node) -> bool:
    """ReduceMean(T(x), axes)  ==>  T(ReduceMean(x, axes')); without keepdims the axes that stay keep their order in x."""
    found = _held(sweep, node)
    axes_input = node.input(1)
    axes = sweep.array(axes_input)
    if found is None or (axes_input is not None and axes is None):
        return False
    _, held, perm = found
    rank = len(perm)
    if axes is None or axes.size == 0:
        reduced = [] if _attr(node, "noop_with_empty_axes") else list(range(rank))
    else:
        reduced = [int(axis) % rank for axis in axes]
    inputs = (held, sweep.ints(sorted(perm.index(axis) for axis in reduced), "axes")) if reduced else (held,)
    return _emit_like(sweep, node, inputs, perm if _attr(node, "keepdims", 1) else without(perm, reduced))


def without(perm: Perm, removed: Sequence[int]) -> Perm:
    """``perm`` of a value that has lost the user's axes ``removed``."""
    kept = [axis for axis in range(len(perm)) if axis not in removed]
    return tuple(kept.index(axis) for axis in perm if axis not in removed)


@layout_rule("ArgMax", "ArgMin")
def arg_reduce(sweep: Sweep, node: Node) -> bool:
    """ArgMax(T(x), axis)  ==>  T(ArgMax(x, axis'))."""
    found = _held(sweep, node)
    if found is None:
        return False
    _, held, perm = found
    axis = _attr(node, "axis") % len(perm)
    out = perm if _attr(node, "keepdims", 1) else without(perm, [axis])
    return _emit_like(sweep, node, (held,), out, axis=perm.index(axis))


@layout_rule("Slice")
def slice_(sweep: Sweep, node: Node) -> bool:
    """Slice(T(x), starts, ends, axes, steps)  ==>  T(Slice(x, starts, ends, axes', steps))."""
    found = _held(sweep, node)
    starts, axes_input = node.input(1), node.input(3)
    axes = sweep.array(axes_input)
    if found is None or starts is None or (axes_input is not None and axes is None):
        return False
    _, held, perm = found
    given = range(starts.shape[0]) if axes is None else [int(axis) % len(perm) for axis in axes]
    dtype = starts.tensor.dtype.numpy
    moved = sweep.constant(np.asarray([perm.index(axis) for axis in given], dtype), "axes")
    inputs = (held, sweep.plain(starts), sweep.plain(node.input(2)), moved, *_rest(sweep, node, 4))
    return _emit_like(sweep, node, inputs, perm)


@layout_rule("Pad")
def pad(sweep: Sweep, node: Node) -> bool:
    """Pad(T(x), pads)  ==>  T(Pad(x, pads')), the pads of all axes reordered."""
    found = _held(sweep, node)
    pads, axes = sweep.array(node.input(1)), sweep.array(node.input(3))
    if found is None or pads is None or (node.input(3) is not None and axes is None):
        return False
    _, held, perm = found
    rank = len(perm)
    full = np.zeros((2, rank), np.int64)
    full[:, identity(rank) if axes is None else [int(axis) % rank for axis in axes]] = pads.reshape(2, -1)
    return _emit_like(sweep, node, (held, sweep.ints(full[:, perm].reshape(-1).tolist(), "pads"), sweep.plain(node.input(2))), perm)


@layout_rule("Expand", "Tile")
def expand(sweep: Sweep, node: Node) -> bool:
    """Expand(T(x), shape)  ==>  T(Expand(x, shape')) where the rank stays; Tile(T(x), repeats) likewise."""
    found = _held(sweep, node)
    given = sweep.array(node.input(1))
    if found is None or given is None or len(node.output.shape) != len(found[2]):
        return False
    _, held, perm = found
    full = [1] * (len(perm) - given.size) + [int(item) for item in given]
    return _emit_like(sweep, node, (held, sweep.ints([full[axis] for axis in perm], "shape")), perm)


@layout_rule("Resize")
def resize(sweep: Sweep, node: Node) -> bool:
    """Resize(T(x), scales, sizes, axes)  ==>  T(Resize(x, scales', sizes', axes')); cropping declines."""
    found = _held(sweep, node)
    if found is None or node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    _, held, perm = found
    axes = node.attrs.get("axes")
    if isinstance(axes, tuple) and axes:
        moved = tuple(perm.index(int(axis) % len(perm)) for axis in axes)  # type: ignore[arg-type]
        return _emit_like(sweep, node, (held, None, *_rest(sweep, node, 2)), perm, axes=moved)
    inputs: list[Value | None] = [held, None]
    for value in node.inputs[2:]:
        array = sweep.array(value)
        if value is not None and array is None:
            return False
        empty = array is None or array.size == 0
        inputs.append(None if array is None or empty else sweep.constant(array[list(perm)], "sizes"))
    return _emit_like(sweep, node, inputs, perm)


@layout_rule("Gather")
def gather(sweep: Sweep, node: Node) -> bool:
    """Gather(T(x), i, axis)  ==>  T(Gather(x, i, axis')) for one index or a list of them."""
    found = _held(sweep, node)
    indices = node.input(1)
    if found is None or indices is None or len(indices.shape) > 1:
        return False
    _, held, perm = found
    axis = _attr(node, "axis") % len(perm)
    out = perm if len(indices.shape) == 1 else without(perm, [axis])
    return _emit_like(sweep, node, (held, sweep.plain(indices)), out, axis=perm.index(axis))


@layout_rule("CumSum")
def cumsum(sweep: Sweep, node: Node) -> bool:
    """CumSum(T(x), axis)  ==>  T(CumSum(x, axis'))."""
    found = _held(sweep, node)
    axis = sweep.array(node.input(1))
    if found is None or axis is None:
        return False
    _, held, perm = found
    moved = np.asarray(perm.index(int(axis.reshape(-1)[0]) % len(perm)), axis.dtype).reshape(axis.shape)
    return _emit_like(sweep, node, (held, sweep.constant(moved, "axis")), perm)


@layout_rule("Reshape", "Squeeze", "Unsqueeze", "Flatten")
def reshape(sweep: Sweep, node: Node) -> bool:
    """Reshape(T(x))  ==>  T'(Reshape(x)), where the axes that are merged or split lie together in x.

    [N,H,W,C] held for [N,C,H,W] to [N,C,H*W] gives [N,H*W,C]; to [N,C] from H = W = 1 gives [N,C] without a transpose.
    Where they do not lie together, one Transpose brings them there, in the order that is channels-last again after a
    convolution, and otherwise the one that keeps what x ends with at the end.
    """
    found = _held(sweep, node)
    if found is None or prod(node.output.shape) == 0:
        return False
    source, held, perm = found
    shape = node.output.shape
    groups = axis_groups(source.shape, shape)
    groups.sort(key=lambda group: perm.index(group[0][-1]))
    if _axes(groups) != [axis for axis in perm if source.shape[axis] != 1]:
        if sweep.is_made_moved(source) and len(shape) > 2:
            groups.sort(key=lambda group: to_nhwc(len(shape)).index(group[1][0]))
        order = _axes(groups)
        units = [axis for axis, dim in enumerate(source.shape) if dim == 1]
        held = sweep.request(source, identity(len(perm)) if order == sorted(order) else (*units, *order))
    out = _with_units([axis for _, after in groups for axis in after], shape)
    sweep.emit("Reshape", (held, sweep.ints([shape[axis] for axis in out], "shape")), sweep.output(node.output, out))
    return True


def _axes(groups: Sequence[tuple[list[int], list[int]]]) -> list[int]:
    return [axis for before, _ in groups for axis in before]


def axis_groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest groups of axes of two shapes of one size that hold the same elements, axes of length one left out.

    (2, 12, 8, 8) and (2, 3, 4, 64): [([0], [0]), ([1], [1, 2]), ([2, 3], [3])].
    """
    left = [axis for axis, dim in enumerate(before) if dim != 1]
    right = [axis for axis, dim in enumerate(after) if dim != 1]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left):
        group: tuple[list[int], list[int]] = ([left[i]], [right[j]])
        size, other = before[left[i]], after[right[j]]
        i, j = i + 1, j + 1
        while size != other:
            if size < other:
                size, i = size * before[left[i]], i + 1
                group[0].append(left[i - 1])
            else:
                other, j = other * after[right[j]], j + 1
                group[1].append(right[j - 1])
        groups.append(group)
    return groups


def _with_units(order: list[int], shape: Sequence[int]) -> Perm:
    """``order`` of the axes longer than one, completed: every axis of length one follows the axis it follows in ``shape``."""
    followers: dict[int, list[int]] = {-1: []}
    last = -1
    for axis, dim in enumerate(shape):
        if dim == 1:
            followers[last].append(axis)
        else:
            last = axis
            followers[last] = []
    return tuple(item for axis in (-1, *order) for item in ((axis, *followers[axis]) if axis >= 0 else followers[axis]))
