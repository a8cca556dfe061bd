"""Give symbolic dimensions and input shapes their numbers, and everything that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from kopt.errors import DynamicShapeError, UsageError
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Value
from kopt.ir.surgery import remove_dead
from kopt.ir.types import Dim, DType, TensorType
from kopt.passes.base import PassContext, register
from kopt.passes.sweep import Limits, Sweep

_LIMITS = Limits(result_bytes=1 << 20, growth_bytes=1 << 16)


@register
@dataclass(frozen=True)
class BindShapes:
    """Bind symbolic dimensions and input shapes, fold what becomes known, and infer all types again.

    Attributes:
        dims: numbers for named dimensions, such as {"batch": 8}.
        shapes: whole shapes for inputs; they may override what the model fixes. A None entry leaves a dimension as it is.
        values: inputs that become constants (those that decide shapes, such as k or a target size).
        partial: whether dimensions of inputs may stay symbolic.
    """

    name: ClassVar[str] = "bind-shapes"
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    partial: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The graph with all inputs static.

        Raises:
            UsageError: a name that is no input or dimension, or a shape or value that contradicts the model.
            DynamicShapeError: an input's dimension got no number.
            InvalidModelError: an operator does not accept the shapes that follow.
        """
        self._check_names(graph)
        dims = self._all_dims(graph)
        overrides = False
        inputs: list[Value | Constant] = []
        for value in graph.inputs:
            bound, fixed_changed = self._bind_input(value, dims)
            overrides |= fixed_changed
            inputs.append(bound)
        if not self.partial:
            _require_static([value for value in inputs if isinstance(value, Value)])
        sweep = Sweep(ctx, _LIMITS, dims, trusted=not overrides)
        result = sweep.run(graph, inputs)
        return result if result is graph else remove_dead(result)

    def _check_names(self, graph: Graph) -> None:
        names = {value.name for value in graph.inputs}
        listed = ", ".join(sorted(names)) or "none"
        for name in (*self.shapes, *self.values):
            if name not in names:
                raise UsageError(f"the model has no input '{name}'", where=graph.name, next_step=f"its inputs are: {listed}")
        known = {
            dim for value in graph.inputs if isinstance(value.type, TensorType) for dim in value.type.shape or () if isinstance(dim, str)
        }
        for dim, size in self.dims.items():
            if dim not in known:
                named = ", ".join(sorted(d for d in known if not d.startswith("?"))) or "none"
                raise UsageError(f"no input has a dimension '{dim}'", where=graph.name, next_step=f"symbolic dimensions are: {named}")
            if size < 0:
                raise UsageError(f"dimension '{dim}' cannot be {size}", where=graph.name, next_step="give a number of at least 0")

    def _all_dims(self, graph: Graph) -> dict[str, int]:
        """``dims`` and what ``shapes`` and ``values`` say about named dimensions."""
        dims = dict(self.dims)
        for value in graph.inputs:
            wanted: Sequence[int | None] | None = self.shapes.get(value.name)
            if value.name in self.values:
                wanted = self.values[value.name].shape
            declared = value.type.shape if isinstance(value.type, TensorType) else None
            if wanted is None or declared is None:
                continue
            if len(wanted) != len(declared):
                raise _misfit(value, wanted, "the number of dimensions differs")
            for dim, size in zip(declared, wanted, strict=True):
                if isinstance(dim, str) and size is not None and dims.setdefault(dim, size) != size:
                    raise _misfit(value, wanted, f"dimension '{dim}' is {dims[dim]} elsewhere")
        return dims

    def _bind_input(self, value: Value, dims: Mapping[str, int]) -> tuple[Value | Constant, bool]:
        """The input bound, and whether a dimension that the model fixes was overridden."""
        if not isinstance(value.type, TensorType):
            return value, False
        if value.name in self.values:
            array = np.asarray(self.values[value.name])
            if DType.from_numpy(array.dtype) is not value.type.dtype:
                raise UsageError(
                    f"input '{value.name}' is {value.type.dtype}, the value is {array.dtype}", next_step="convert the value first"
                )
            return Constant.of(array), False
        declared = value.type.bind(dims)
        wanted = self.shapes.get(value.name)
        if wanted is None:
            shape = declared.shape
        elif declared.shape is None:
            shape = tuple("?" if size is None else size for size in wanted)
        else:
            shape = tuple(dim if size is None else size for dim, size in zip(declared.shape, wanted, strict=True))
        if any(isinstance(size, int) and size < 0 for size in shape or ()):
            raise _misfit(value, wanted or (), "a dimension is negative")
        overridden = (
            wanted is not None
            and declared.shape is not None
            and any(isinstance(a, int) and a != b for a, b in zip(declared.shape, shape or (), strict=True))
        )
        type_ = TensorType(declared.dtype, shape)
        return (value if type_ == value.type else Value(value.name, type_)), overridden


def _misfit(value: Value, wanted: Sequence[int | None], reason: str) -> UsageError:
    shape = "x".join("?" if size is None else str(size) for size in wanted)
    return UsageError(
        f"shape {shape} does not fit input '{value.name}' ({value.type}): {reason}", next_step="see `kopt inspect MODEL` for its inputs"
    )


def _require_static(inputs: Sequence[Value]) -> None:
    open_inputs = [value for value in inputs if isinstance(value.type, TensorType) and not value.type.is_static]
    if not open_inputs:
        return
    lines, flags = [], []
    for value in open_inputs:
        shape = value.tensor.shape
        if shape is None:
            lines.append(f"input '{value.name}' has no shape")
            flags.append(f"--shape {value.name}:DIMS")
            continue
        symbolic = [dim for dim in shape if isinstance(dim, str)]
        names = ", ".join(f"'{dim}' (axis {shape.index(dim)})" for dim in dict.fromkeys(symbolic))
        lines.append(f"input '{value.name}' has no number for dimension{'s' if len(set(symbolic)) > 1 else ''} {names}")
        flags.append(f"--shape {value.name}:{'x'.join(_spell(dim) for dim in shape)}")
    step = f"give numbers in place of names, as in {' '.join(flags)}"
    raise DynamicShapeError("; ".join(lines), where="the model's inputs", next_step=step)


def _spell(dim: Dim) -> str:
    return str(dim) if isinstance(dim, int) else (dim.upper() if not dim.startswith("?") else "N")
