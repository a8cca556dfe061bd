"""One graph, one set of shapes, one program: bind, transform, lower, compile. Shared by the compiler and by sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from kopt.errors import DynamicShapeError, UnsupportedModelError, UsageError
from kopt.hardware import Target
from kopt.ir.graph import Graph, Value
from kopt.ir.types import TensorType
from kopt.once import Once
from kopt.passes.base import PassContext, PassRecord
from kopt.passes.bind_shapes import BindShapes
from kopt.passes.pipeline import Pipeline, preset
from kopt.passes.spec import format_pass, parse_passes
from kopt.targets.base import Executable, Lowered, backend
from kopt.targets.partition import HostNode, host_nodes, partition

MAX_PROGRAMS = 16
"""Programs of one graph that stay in memory."""

_READS_SHAPE_ONLY = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Recipe:
    """How programs are made; stored in an artifact so that other shapes are made the same way.

    Attributes:
        backend: the compiler.
        passes: the pipeline after shapes are bound, as spelled on the command line.
        options: of the backend's lowering, in JSON types.
    """

    backend: str = "xla"
    passes: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_preset(cls, name: str, *, backend: str = "xla", options: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe with the passes of a preset.

        Raises:
            UsageError: unknown preset.
        """
        return cls(backend, ",".join(format_pass(pass_) for pass_ in preset(name)), dict(options or {}))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Recipe:
        """What ``to_json`` gave.

        Raises:
            UsageError: fields are missing or of the wrong type.
        """
        chosen, passes, options = content.get("backend"), content.get("passes"), content.get("options")
        if not isinstance(chosen, str) or not isinstance(passes, str) or not isinstance(options, dict):
            raise UsageError("the artifact does not say how its programs were made", next_step="compile the model again")
        return cls(chosen, passes, options)

    def to_json(self) -> dict[str, Any]:
        """In JSON types."""
        return {"backend": self.backend, "passes": self.passes, "options": dict(self.options)}


@dataclass(frozen=True)
class Specialized:
    """What became of a graph at concrete shapes.

    Attributes:
        lowered: in the backend's language; ``lowered.graph`` is the transformed graph.
        records: what each pass did.
        values: the inputs that became constants.
        backend: whose language it is: the recipe's, or "segments" where parts run on the host.
        host_nodes: what runs on the host, and why.
    """

    lowered: Lowered
    records: tuple[PassRecord, ...]
    values: Mapping[str, np.ndarray]
    backend: str
    host_nodes: tuple[HostNode, ...] = ()

    def compile(self) -> Executable:
        """Native code.

        Raises:
            ToolchainError: the compiler failed.
            TargetError: the target is not on this machine.
        """
        return backend(self.backend).compile(self.lowered)


def specialize(
    graph: Graph,
    recipe: Recipe,
    target: Target,
    *,
    shapes: Mapping[str, Sequence[int]],
    values: Mapping[str, np.ndarray] | None = None,
) -> Specialized:
    """Bind shapes and values, run the recipe's passes, lower.

    Args:
        graph: as loaded.
        recipe: passes and backend.
        target: what to lower for; need not be on this machine.
        shapes: of every input that is not in ``values``.
        values: inputs that become constants, since they decide shapes.

    Raises:
        DynamicShapeError: an input has no shape yet.
        UnsupportedModelError: nodes the backend cannot lower.
        UsageError: shapes or values that do not fit the model.
    """
    from kopt.targets.reference import evaluate_node

    held = dict(values or {})
    bind = BindShapes(shapes={name: tuple(shape) for name, shape in shapes.items()}, values=held)
    bound, records = Pipeline((bind,)).run(graph, PassContext(evaluate_node=evaluate_node))
    if recipe.backend == "xla":
        forced: tuple[str, ...] = ()
        if partition(bound).is_whole:
            try:
                return _whole(bound, records, recipe, target, held)
            except (UnsupportedModelError, DynamicShapeError) as error:
                forced = _bodies_at_fault(bound, error)
                if not forced:
                    raise
        options = {"recipe": recipe.to_json(), "forced": forced}
        lowered = backend("segments").lower(bound, target, options)
        return Specialized(lowered, records, held, "segments", lowered.module.partition.host_nodes)
    return _whole(bound, records, recipe, target, held)


def _bodies_at_fault(bound: Graph, error: UnsupportedModelError | DynamicShapeError) -> tuple[str, ...]:
    """The control-flow nodes inside which the compiler gave up; with their bodies run one by one, sizes are known there."""
    places = {where for _, where in error.nodes} if isinstance(error, UnsupportedModelError) else {error.where}
    return tuple(
        node.name
        for node in bound.nodes
        if any(True for _ in node.subgraphs())
        and (node.loc in places or any(inner.loc in places for body in node.subgraphs() for _, inner in body.walk()))
    )


def _whole(bound: Graph, bound_by: tuple[PassRecord, ...], recipe: Recipe, target: Target, held: Mapping[str, np.ndarray]) -> Specialized:
    """One program for the whole graph."""
    from kopt.targets.reference import evaluate_node

    pipeline = Pipeline(tuple(parse_passes(recipe.passes)) if recipe.passes else ())
    transformed, records = pipeline.run(bound, PassContext(evaluate_node=evaluate_node))
    chosen = backend(recipe.backend)
    support = chosen.supports(transformed, target)
    if not support:
        nodes = [(op, where) for op, where, _ in support.unsupported]
        raise UnsupportedModelError(nodes, backend=recipe.backend, reasons=[reason for _, _, reason in support.unsupported])
    return Specialized(chosen.lower(transformed, target, recipe.options), (*bound_by, *records), held, recipe.backend)


def shape_inputs(graph: Graph) -> tuple[str, ...]:
    """Names of the inputs whose values (not only shapes) decide shapes: run-time axes, k, target sizes.

    An input counts when a chain of nodes leads from its value to an operand that the lowering must know while compiling.
    """
    from kopt.targets.lowering.registry import static_inputs
    from kopt.targets.lowering.walk import load_lowerings

    load_lowerings()
    on_host = host_nodes(graph)
    wanted: set[Value] = set()
    direct: set[Value] = set()
    for node in reversed(graph.nodes):
        if node in on_host:  # it needs no value while compiling, and what it makes is known at run time only
            continue
        static = static_inputs(node)
        direct.update(value for k, value in enumerate(node.inputs) if k in static and value is not None)
        if node.op not in _READS_SHAPE_ONLY and any(output in wanted or output in direct for output in node.outputs if output is not None):
            wanted.update(value for value in node.inputs if value is not None)
    return tuple(
        value.name for value in graph.inputs if isinstance(value.type, TensorType) and (value in direct or _decides(value, wanted))
    )


def _decides(value: Value, wanted: set[Value]) -> bool:
    """Whether the value of an input is taken for part of a shape: larger tensors are data even where a chain leads on."""
    return value in wanted and value.tensor.rank in (0, 1)


class Programs:
    """A graph as a function of arrays: compiled on first use of each set of shapes; may be called from any number of threads.

    Attributes:
        graph: as loaded; its inputs may have open dimensions.
        recipe: how programs are made.
        target: what for.
    """

    def __init__(self, graph: Graph, recipe: Recipe, target: Target, limit: int = MAX_PROGRAMS) -> None:
        self.graph = graph
        self.recipe = recipe
        self.target = target
        self._names = tuple(value.name for value in graph.inputs)
        self._static = frozenset(shape_inputs(graph))
        self._made: Once[Executable] = Once(limit)

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs for one value per input of the graph, in order; arrays of the backend, finished.

        Raises:
            KoptError: the values do not fit the graph, or its nodes cannot be compiled.
        """
        values = {name: np.asarray(item) for name, item in zip(self._names, inputs, strict=True) if name in self._static}
        fed = {name: item for name, item in zip(self._names, inputs, strict=True) if name not in self._static}
        shapes = {name: tuple(item.shape) for name, item in fed.items() if hasattr(item, "shape")}
        return list(self._program(shapes, values)(list(fed.values())))

    def known(self) -> Executable | None:
        """The program where the shapes of all inputs are numbers and none of their values is needed, compiled now at the latest."""
        if self._static or not all(isinstance(value.type, TensorType) and value.type.is_static for value in self.graph.inputs):
            return None
        return self._program({value.name: value.shape for value in self.graph.inputs}, {})

    def take(self, executable: Executable) -> None:
        """Use a program that was loaded instead of compiling that of ``known``."""
        shapes = {value.name: value.shape for value in self.graph.inputs}
        self._made.get((tuple(shapes.items()),), lambda: executable)

    def held(self) -> list[Executable]:
        """The programs in memory."""
        return self._made.values()

    def _program(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> Executable:
        key = (tuple(shapes.items()), *((name, array.shape, array.tobytes()) for name, array in values.items()))
        return self._made.get(key, partial(self._compile, shapes, values))

    def _compile(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> Executable:
        return specialize(self.graph, self.recipe, self.target, shapes=shapes, values=values).compile()
