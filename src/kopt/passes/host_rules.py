"""Numpy rules for the small nodes that compute shapes, axes and limits.

Exporters spell shape arithmetic with some twenty operators. Computing those here keeps folding fast and independent of
any backend; everything else goes through ``PassContext.evaluate_node``. The structural rules also work on *partly known*
integers: object arrays whose entries are a number, the name of a symbolic dimension, or None for unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from kopt.ir.constant import Constant
from kopt.ir.graph import Node
from kopt.ir.types import DType, TensorType

Arrays: TypeAlias = Sequence["np.ndarray | None"]
Rule: TypeAlias = Callable[[Node, Any], "np.ndarray | None"]


_FAULTS = (ValueError, IndexError, TypeError, OverflowError, MemoryError)


def evaluate_small(node: Node, inputs: Arrays) -> tuple[np.ndarray, ...] | None:
    """Outputs of a node on known inputs, or None where there is no rule for this operator or these values."""
    if node.domain:
        return None
    rule: Callable[[Node, Any], Any] | None = _split if node.op == "Split" else _RULES.get(node.op)
    if rule is None or (len(node.outputs) != 1 and node.op != "Split"):
        return None
    try:
        with np.errstate(all="ignore"):
            result = rule(node, inputs)
    except _FAULTS:  # values that contradict the operator: what compiles the node says so
        return None
    if isinstance(result, tuple):
        return result
    return None if result is None else (np.asarray(result),)


def evaluate_partial(node: Node, inputs: Arrays) -> np.ndarray | None:
    """The first output on partly known integers (object arrays), or None where nothing can be said."""
    if node.domain or any(array is None for array in inputs[:1]):
        return None
    if node.op in _STRUCTURAL:
        if node.op == "Cast" and not _is_integer_cast(node):
            return None
        try:
            found = _STRUCTURAL[node.op](node, inputs)
        except _FAULTS:
            return None
        return None if found is None else np.asarray(found, dtype=object)
    rule = _PARTIAL_ARITHMETIC.get(node.op)
    if rule is None or any(array is None for array in inputs):
        return None
    result = np.frompyfunc(rule, 2, 1)(*inputs)
    return np.asarray(result, dtype=object)


def _is_integer_cast(node: Node) -> bool:
    target = node.attrs["to"]
    return isinstance(target, int) and DType.from_onnx(target) in (DType.I64, DType.I32)


def _constant(node: Node, _: Arrays) -> np.ndarray | None:
    for name, value in node.attrs.items():
        if name == "value" and isinstance(value, Constant):
            return value.array()
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    return None


def _shape(node: Node, inputs: Arrays) -> np.ndarray | None:
    array = inputs[0]
    return None if array is None else np.asarray(array.shape[shape_slice(node, array.ndim)], np.int64)


def shape_slice(node: Node, rank: int) -> slice:
    """The part of the dimensions that a Shape node returns."""
    start, end = node.attrs.get("start", 0), node.attrs.get("end", rank)
    first, last = (min(max(at + rank if at < 0 else at, 0), rank) for at in (int(start), int(end)))  # type: ignore[arg-type]
    return slice(first, last)


def _identity(_: Node, inputs: Arrays) -> np.ndarray | None:
    return inputs[0]


def _gather(node: Node, inputs: Arrays) -> np.ndarray | None:
    array, indices = inputs
    if array is None or indices is None or not array.ndim:
        return None
    axis = int(node.attrs.get("axis", 0))  # type: ignore[arg-type]
    at = _as_indices(indices)
    if at is None or (at.size and not (-array.shape[axis] <= at.min() and at.max() < array.shape[axis])):
        return None
    return np.take(array, at, axis=axis)


def _as_indices(array: np.ndarray | None) -> np.ndarray | None:
    """``array`` as int64, None where an entry is not a number."""
    if array is None or (array.dtype == object and not all(isinstance(item, int) for item in array.ravel().tolist())):
        return None
    return array.astype(np.int64)


def _slice(_: Node, inputs: Arrays) -> np.ndarray | None:
    array, starts, ends = inputs[0], _as_indices(inputs[1]), _as_indices(inputs[2])
    axes = _as_indices(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else None
    steps = _as_indices(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else None
    if array is None or starts is None or ends is None:
        return None
    slices = [slice(None)] * array.ndim
    for k, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = int(axes[k]) if axes is not None else k
        step = int(steps[k]) if steps is not None else 1
        size = array.shape[axis]
        low, high = (0, size) if step > 0 else (-1, size - 1)
        first = min(max(start + size if start < 0 else start, low, 0), high)
        last = min(max(end + size if end < 0 else end, low), size)
        slices[axis] = slice(first, None if last < 0 else last, step)
    return array[tuple(slices)]


def _concat(node: Node, inputs: Arrays) -> np.ndarray | None:
    arrays = [array for array in inputs if array is not None]
    if len(arrays) != len(inputs):
        return None
    return np.concatenate(arrays, axis=int(node.attrs["axis"]))  # type: ignore[arg-type]


def _axes(inputs: Arrays, rank: int) -> list[int] | None:
    axes = _as_indices(inputs[1]) if len(inputs) > 1 else None
    return None if axes is None else [axis + rank if axis < 0 else axis for axis in axes.ravel().tolist()]


def _unsqueeze(node: Node, inputs: Arrays) -> np.ndarray | None:  # noqa: ARG001 - every rule takes its node
    array, axes = inputs[0], inputs[1]
    if array is None or axes is None:
        return None
    found = _axes(inputs, array.ndim + axes.size)
    return None if found is None else np.expand_dims(array, tuple(found))


def _squeeze(node: Node, inputs: Arrays) -> np.ndarray | None:  # noqa: ARG001 - every rule takes its node
    array = inputs[0]
    if array is None:
        return None
    if len(inputs) < 2 or inputs[1] is None:
        return array.reshape([size for size in array.shape if size != 1])
    axes = _axes(inputs, array.ndim)
    if axes is None or any(array.shape[axis] != 1 for axis in axes):
        return None
    return np.squeeze(array, tuple(axes))


def _reshape(node: Node, inputs: Arrays) -> np.ndarray | None:
    array, shape = inputs[0], _as_indices(inputs[1])
    if array is None or shape is None:
        return None
    target = shape.tolist()
    if not node.attrs.get("allowzero", 0):
        if any(size == 0 and k >= array.ndim for k, size in enumerate(target)):
            return None
        target = [array.shape[k] if size == 0 else size for k, size in enumerate(target)]
    try:
        return array.reshape(target)
    except ValueError:
        return None


def _transpose(node: Node, inputs: Arrays) -> np.ndarray | None:
    return None if inputs[0] is None else np.transpose(inputs[0], node.attrs.get("perm"))  # type: ignore[arg-type]


def _cast(node: Node, inputs: Arrays) -> np.ndarray | None:
    array, target = inputs[0], DType.from_onnx(int(node.attrs["to"]))  # type: ignore[arg-type]
    if array is None:
        return None
    if array.dtype == object:
        return array
    source = DType.from_numpy(array.dtype)
    plain = {
        DType.BOOL,
        DType.I8,
        DType.I16,
        DType.I32,
        DType.I64,
        DType.U8,
        DType.U16,
        DType.U32,
        DType.U64,
        DType.F16,
        DType.F32,
        DType.F64,
    }
    if source not in plain or target not in plain:
        return None
    if source.is_float and target.is_integer:  # out of range is undefined: leave it to whoever runs the model
        limits = np.iinfo(target.numpy)
        if array.size and not (np.isfinite(array).all() and array.min() > limits.min and array.max() < limits.max):
            return None
    return array.astype(target.numpy)


def _elementwise(function: Callable[..., Any]) -> Rule:
    def rule(_: Node, inputs: Arrays) -> np.ndarray | None:
        if any(array is None or array.dtype == object or array.dtype.kind not in "biuf" for array in inputs):
            return None
        result = np.asarray(function(*inputs))
        return result if result.dtype.kind == "b" else result.astype(inputs[0].dtype)  # type: ignore[union-attr]

    return rule


def _variadic(function: Callable[..., Any]) -> Rule:
    def fold(*arrays: np.ndarray) -> Any:
        result = arrays[0]
        for array in arrays[1:]:
            result = function(result, array)
        return result

    return _elementwise(fold)


def _divide(_: Node, inputs: Arrays) -> np.ndarray | None:
    a, b = inputs
    if a is None or b is None or a.dtype.kind not in "iuf":
        return None
    if a.dtype.kind == "f":
        return np.asarray(a / b, a.dtype)
    if not b.all():
        return None
    quotient = np.abs(a) // np.abs(b)  # ONNX truncates towards zero, numpy floors
    return np.asarray(np.where((a < 0) != (b < 0), -quotient, quotient), a.dtype)


def _where(_: Node, inputs: Arrays) -> np.ndarray | None:
    condition, a, b = inputs
    if condition is None or a is None or b is None or condition.dtype == object:
        return None
    return np.where(condition, a, b)


def _constant_of_shape(node: Node, inputs: Arrays) -> np.ndarray | None:
    shape, value = inputs[0], node.attrs.get("value")
    if shape is None:
        return None
    fill = value.array().reshape(()) if isinstance(value, Constant) else np.zeros((), np.float32)
    return np.full(shape.tolist(), fill, fill.dtype)


def _range(_: Node, inputs: Arrays) -> np.ndarray | None:
    start, limit, delta = inputs
    if start is None or limit is None or delta is None or not delta.item() or start.dtype.kind not in "iu":
        return None
    steps = range(start.item(), limit.item(), delta.item())  # exact, where numpy divides as floats
    return np.fromiter(steps, start.dtype)


def _expand(_: Node, inputs: Arrays) -> np.ndarray | None:
    array, shape = inputs[0], _as_indices(inputs[1])
    if array is None or shape is None:
        return None
    return np.ascontiguousarray(np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(shape.tolist()))))


def _reduce(function: Callable[..., Any]) -> Rule:
    def rule(node: Node, inputs: Arrays) -> np.ndarray | None:
        array = inputs[0]
        if array is None or array.dtype.kind not in "iu" or not array.size:
            return None
        axes = _axes(inputs, array.ndim) if len(inputs) > 1 and inputs[1] is not None else None
        if not axes and node.attrs.get("noop_with_empty_axes"):
            return array
        kept = bool(node.attrs.get("keepdims", 1))
        return np.asarray(function(array, axis=tuple(axes) if axes else None, keepdims=kept), array.dtype)

    return rule


def _split(node: Node, inputs: Arrays) -> tuple[np.ndarray, ...] | None:
    array = inputs[0]
    if array is None or array.dtype == object:
        return None
    axis = int(node.attrs.get("axis", 0))  # type: ignore[arg-type]
    sizes = inputs[1] if len(inputs) > 1 else None
    if sizes is None:
        count = int(node.attrs.get("num_outputs", len(node.outputs)))  # type: ignore[arg-type]
        chunk = -(-array.shape[axis] // count)
        bounds = [chunk * k for k in range(1, count)]
    else:
        bounds = np.cumsum(sizes)[:-1].tolist()
    return tuple(np.ascontiguousarray(part) for part in np.split(array, bounds, axis=axis))


def _size(_: Node, inputs: Arrays) -> np.ndarray | None:
    return None if inputs[0] is None else np.asarray(inputs[0].size, np.int64)


def _mod(node: Node, inputs: Arrays) -> np.ndarray | None:
    a, b = inputs
    if a is None or b is None or a.dtype.kind not in "iu" or not b.all() or node.attrs.get("fmod"):
        return None
    return np.mod(a, b)


_STRUCTURAL: dict[str, Rule] = {
    "Identity": _identity,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Cast": _cast,
}
_RULES: dict[str, Rule] = _STRUCTURAL | {
    "Constant": _constant,
    "Shape": _shape,
    "Size": _size,
    "Transpose": _transpose,
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _divide,
    "Mod": _mod,
    "Min": _variadic(np.minimum),
    "Max": _variadic(np.maximum),
    "Neg": _elementwise(np.negative),
    "Abs": _elementwise(np.abs),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Equal": _elementwise(np.equal),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Not": _elementwise(np.logical_not),
    "And": _elementwise(np.logical_and),
    "Or": _elementwise(np.logical_or),
    "Where": _where,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Expand": _expand,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
}


def _partial_add(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return a if b == 0 else b if a == 0 else None


def _partial_sub(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    return a if b == 0 else None


def _partial_mul(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return 0 if 0 in (a, b) else a if b == 1 else b if a == 1 else None


def _partial_div(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and b:
        return int(np.trunc(a / b)) if abs(a) < 2**52 else None
    return a if b == 1 else None


_PARTIAL_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": _partial_add,
    "Sub": _partial_sub,
    "Mul": _partial_mul,
    "Div": _partial_div,
}


def partial_shape(type_: TensorType) -> np.ndarray | None:
    """The dimensions of a type as partly known integers; an unnumbered "?" is unknown."""
    if type_.shape is None:
        return None
    found = np.empty(len(type_.shape), dtype=object)
    found[:] = [None if dim == "?" else dim for dim in type_.shape]
    return found
