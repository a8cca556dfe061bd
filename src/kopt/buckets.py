"""From a model and the batches asked for to concrete shapes: one bucket per batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kopt.errors import DynamicShapeError, UsageError
from kopt.ir.graph import Graph, Value
from kopt.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type
from kopt.passes.base import PassContext
from kopt.passes.rebatch import Rebatch, row_independence

BATCH = "batch"


@dataclass(frozen=True)
class Bucket:
    """Shapes to compile for.

    Attributes:
        batch: rows per call; 0 where no input has a batch axis.
        shapes: of every input that is a tensor.
    """

    batch: int
    shapes: Mapping[str, tuple[int, ...]]


def plan(graph: Graph, batches: Sequence[int] | None, shapes: Mapping[str, Sequence[int]]) -> tuple[Graph, tuple[Bucket, ...]]:
    """The graph with a symbolic batch where one is needed, and the buckets.

    Args:
        graph: as loaded.
        batches: rows per call, in the order wanted; None: what the model fixes, else 1.
        shapes: of inputs with other unknown dimensions.

    Raises:
        UsageError: shapes or batches that do not fit the model.
        DynamicShapeError: dimensions that nothing binds; the message names them.
        UnsupportedModelError: a fixed batch cannot be changed, with the node that stands in the way.
    """
    _check(graph, batches, shapes)
    bound = _with_shapes(graph, shapes)
    symbolic = _batch_names(bound)
    if batches and not symbolic:
        types = [value.type for value in bound if isinstance(value.type, TensorType) and value.type.is_static]
        leading = {type_.static_shape[0] for type_ in types if type_.shape}
        if not leading:
            raise UsageError("the model has no input with a batch axis", where=graph.name, next_step="leave out --batch")
        if leading != {batches[0]} or len(batches) > 1:
            graph = Rebatch(batch=BATCH).run(graph, PassContext())
            bound = _with_shapes(graph, {})
            symbolic = _batch_names(bound)
    wanted: Sequence[int | None] = batches or ([1] if symbolic else [None])
    return graph, tuple(_bucket(graph, bound, symbolic, batch) for batch in wanted)


def _check(graph: Graph, batches: Sequence[int] | None, shapes: Mapping[str, Sequence[int]]) -> None:
    if batches is not None and (not batches or any(batch < 1 for batch in batches) or len(set(batches)) != len(batches)):
        raise UsageError(f"batches {list(batches)} are not distinct positive numbers", next_step="write for instance --batch 1,8")
    names = [value.name for value in graph.inputs]
    for name, shape in shapes.items():
        if name not in names:
            raise UsageError(f"the model has no input '{name}'", where=graph.name, next_step=f"its inputs are: {', '.join(names)}")
        declared = next(value for value in graph.inputs if value.name == name).type
        known = declared.shape if isinstance(declared, TensorType) else None
        if known is None:
            continue
        if len(known) != len(shape) or any(isinstance(have, int) and have != want for have, want in zip(known, shape, strict=False)):
            raise UsageError(f"shape {list(shape)} does not fit input '{name}': {declared}", where=graph.name, next_step="correct --shape")


def _with_shapes(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> list[Value]:
    """The inputs with the given shapes; a dimension bound by one input is bound in the others too."""
    dims: dict[str, int] = {}
    for value in graph.inputs:
        known = value.type.shape if isinstance(value.type, TensorType) else None
        for have, want in zip(known or (), shapes.get(value.name, ()), strict=False):
            if isinstance(have, str) and dims.setdefault(have, want) != want:
                raise UsageError(
                    f"dimension '{have}' is given as {dims[have]} and as {want}", where=graph.name, next_step="correct --shape"
                )
    result = []
    for value in graph.inputs:
        given = shapes.get(value.name)
        tensor = value.type
        if isinstance(tensor, TensorType):
            tensor = TensorType(tensor.dtype, tuple(given)) if given is not None else tensor.bind(dims)
        result.append(Value(value.name, tensor))
    return result


def _batch_names(inputs: Sequence[Value]) -> set[str]:
    """Symbolic first dimensions: where there are several, each is taken for the batch."""
    shapes = [value.type.shape for value in inputs if isinstance(value.type, TensorType)]
    return {shape[0] for shape in shapes if shape and isinstance(shape[0], str)}


def _bucket(graph: Graph, inputs: Sequence[Value], names: set[str], batch: int | None) -> Bucket:
    shapes: dict[str, tuple[int, ...]] = {}
    for value in inputs:
        if not isinstance(value.type, TensorType):
            continue
        tensor = value.type.bind(dict.fromkeys(names, batch or 1))
        if not tensor.is_static:
            open_dims = [str(dim) for dim in tensor.shape or ()]
            raise DynamicShapeError(
                f"input '{value.name}' has dimensions that are not known: {','.join(open_dims) or 'not even their number'}",
                where=graph.name,
                next_step=f"give them: --shape {value.name}:1x128",
            )
        shapes[value.name] = tensor.static_shape
    if batch is None:
        leading = {shape[0] for shape in shapes.values() if shape}
        batch = leading.pop() if len(leading) == 1 else 0
    return Bucket(batch, shapes)


def rows_of(graph: Graph) -> tuple[dict[str, int], dict[str, int]] | None:
    """Batch axes of inputs and outputs of a static graph whose rows are proven independent, else None."""
    proof = row_independence(graph)
    if proof.reason or not proof.batch:
        return None
    inputs = {value.name: 0 for value in graph.inputs if value in proof.rows}
    outputs = {value.name: proof.rows[value].axis for value in graph.outputs if value in proof.rows and proof.rows[value].is_plain}
    return (inputs, outputs) if len(outputs) == len(set(graph.outputs)) else None


def random_inputs(graph: Graph, shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, Any]:
    """Inputs for checks and timing: normal floats, indices within what they index, ones for masks.

    What is no tensor is made up: a sequence of two, an optional that is there, a map of one entry; dimensions not known are 2.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for value in graph.inputs:
        if not isinstance(value.type, TensorType):
            feeds[value.name] = _made_up(value.type, rng)
            continue
        dtype, shape = value.tensor.dtype, tuple(shapes[value.name])
        if dtype is DType.BOOL:
            feeds[value.name] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.is_integer:
            limit = _index_limit(graph, value)
            feeds[value.name] = (rng.integers(0, limit, shape) if limit else np.ones(shape)).astype(dtype.numpy)
        elif dtype is DType.STRING:
            feeds[value.name] = np.full(shape, "kopt", object)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(dtype.numpy)
    return feeds


def _made_up(type_: Type, rng: np.random.Generator) -> Any:
    if isinstance(type_, SequenceType):
        return [_made_up(type_.element, rng) for _ in range(2)]
    if isinstance(type_, OptionalType):
        return _made_up(type_.element, rng)
    if isinstance(type_, MapType):
        key = "kopt" if type_.key is DType.STRING else 0
        return {key: _made_up(type_.element, rng).item()}
    shape = tuple(dim if isinstance(dim, int) else 2 for dim in (("",) if type_.shape is None else type_.shape))
    if type_.dtype is DType.STRING:
        return np.full(shape, "kopt", object)
    return rng.standard_normal(shape).astype(type_.dtype.numpy) if type_.dtype.is_float else np.ones(shape, type_.dtype.numpy)


def _index_limit(graph: Graph, value: Value) -> int:
    """How many entries the table has that ``value`` indexes; 0 when it indexes none."""
    for use in graph.uses(value):
        node = use.node
        if node is not None and node.op in ("Gather", "GatherElements") and use.index == 1 and node.inputs[0] is not None:
            axis = int(node.attrs.get("axis", 0))  # type: ignore[arg-type]
            shape = node.inputs[0].type.shape if isinstance(node.inputs[0].type, TensorType) else None
            size = shape[axis] if shape else 0
            return size if isinstance(size, int) else 0
    return 0
