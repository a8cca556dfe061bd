"""A graph as compiled segments with the host between them, behind the interface of a backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from kopt.errors import ToolchainError, UnsupportedModelError
from kopt.hardware import Target
from kopt.ir.graph import Graph, Value
from kopt.segments.interpret import HostSegment, missing_functions
from kopt.segments.stored import pack, unpack
from kopt.specialize import Programs, Recipe
from kopt.targets.base import Executable, Lowered, Signature, Support, backend
from kopt.targets.partition import HostNode, Partition, Segment, host_nodes, partition


@dataclass(frozen=True)
class _Plan:
    """What ``lower`` hands to ``compile``."""

    partition: Partition
    recipe: Recipe
    forced: tuple[str, ...]


class SegmentedProgram:
    """Segments in the order they run; may be called from any number of threads.

    Attributes:
        host_nodes: what runs on the host.
    """

    def __init__(self, graph: Graph, plan: _Plan, target: Target, executables: Mapping[int, Executable] | None = None) -> None:
        self._graph = graph
        self._plan = plan
        self.host_nodes: tuple[HostNode, ...] = plan.partition.host_nodes
        self._runs = [_runner(segment, plan.recipe, target) for segment in plan.partition.segments]
        for index, executable in (executables or {}).items():
            run = self._runs[index]
            if isinstance(run, Programs):
                run.take(executable)
        self._constants = {value: graph.constants[value].array() for value in graph.outputs if value in graph.constants}
        self._dropped = _last_reads(graph, plan.partition.segments)

    @cached_property
    def signature(self) -> Signature:
        """Inputs and outputs; dimensions of outputs may be open.

        Raises:
            UsageError: one of them is a sequence or an optional.
        """
        return Signature.of(self._graph)

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on one value per input: arrays, lists for sequences, None for an absent optional.

        Raises:
            InputError: values that an operator does not accept.
            KoptError: a segment cannot be compiled for the shapes it gets.
        """
        env: dict[Value, Any] = {**self._constants, **dict(zip(self._graph.inputs, inputs, strict=True))}
        for segment, run, dropped in zip(self._plan.partition.segments, self._runs, self._dropped, strict=True):
            env.update(zip(segment.makes, run([env[value] for value in segment.reads]), strict=True))
            for value in dropped:
                del env[value]
        return [env[value] for value in self._graph.outputs]

    def warm(self) -> None:
        """Compile the segments whose input shapes are known before anything runs."""
        for run in self._runs:
            if isinstance(run, Programs):
                run.known()

    def save(self) -> tuple[bytes, Mapping[str, np.ndarray]]:
        """The segments as bytes, and the weights they take."""
        return pack(self._graph, self._plan.recipe, self._plan.forced, [run if isinstance(run, Programs) else None for run in self._runs])


def _runner(segment: Segment, recipe: Recipe, target: Target) -> Programs | HostSegment:
    if segment.on_host:
        return HostSegment(segment.graph, recipe, target)
    return Programs(segment.graph, recipe, target)


def _last_reads(graph: Graph, segments: Sequence[Segment]) -> list[list[Value]]:
    """For each segment the values that nothing needs after it."""
    kept = set(graph.outputs)
    dropped: list[list[Value]] = []
    for segment in reversed(segments):
        gone = [value for value in dict.fromkeys((*segment.reads, *segment.makes)) if value not in kept]
        kept.update(gone)
        dropped.append(gone)
    return dropped[::-1]


class SegmentsBackend:
    """Compiled segments with the host between them."""

    name: ClassVar[str] = "segments"

    def version(self) -> str:
        """That of the compiler of the compiled segments."""
        return backend("xla").version()

    def supports(self, graph: Graph, target: Target) -> Support:
        """Every node needs a lowering or a host function, those inside bodies on the host too."""
        on_host = host_nodes(graph)
        compiled = graph.replace(nodes=tuple(node for node in graph.nodes if node not in on_host))
        missing = missing_functions(graph.replace(nodes=tuple(on_host)))
        found = [*backend("xla").supports(compiled, target).unsupported]
        found += [(node.qualified_op, node.loc, "no host function") for node in missing]
        for body in (body for node in on_host for body in node.subgraphs()):
            found += self.supports(body, target).unsupported
        return Support(tuple(found))

    def lower(self, graph: Graph, target: Target, options: Mapping[str, Any] | None = None) -> Lowered:
        """Cut into segments.

        Args:
            graph: inputs bound.
            target: what compiled segments are for.
            options: "recipe" of the compiled segments in JSON types, and "forced": control-flow nodes that no compiler takes.

        Raises:
            UnsupportedModelError: nodes that have neither a lowering nor a host function.
        """
        settings = options or {}
        recipe, forced = Recipe.from_json(settings.get("recipe", {})), tuple(settings.get("forced", ()))
        support = self.supports(graph, target)
        if not support:
            nodes = [(op, where) for op, where, _ in support.unsupported]
            raise UnsupportedModelError(nodes, backend=recipe.backend, reasons=[reason for _, _, reason in support.unsupported])
        plan = _Plan(partition(graph, forced), recipe, forced)
        return Lowered(graph, target, "segments", segments_text(plan.partition), {}, plan)

    def compile(self, lowered: Lowered) -> SegmentedProgram:
        """The segments ready to run; those whose input shapes are known are compiled now, others when first used."""
        program = SegmentedProgram(lowered.graph, lowered.module, lowered.target)
        program.warm()
        return program

    def load(self, code: bytes, weights: Mapping[str, np.ndarray], signature: Signature, target: Target) -> SegmentedProgram:
        """What ``save`` gave; other segments are compiled when first used.

        Raises:
            ToolchainError: it is something else, or the compiler refuses its code.
        """
        del signature  # follows from the graph
        graph, recipe, forced, executables = unpack(code, weights, target)
        plan = _Plan(partition(graph, forced), recipe, forced)
        if any(k >= len(plan.partition.segments) or plan.partition.segments[k].on_host for k in executables):
            raise ToolchainError("stored segments do not fit this version's", next_step="compile the model again")
        return SegmentedProgram(graph, plan, target, executables)


def segments_text(found: Partition) -> str:
    """For people: each segment and its nodes."""
    lines = []
    for index, segment in enumerate(found.segments):
        lines.append(f"segment {index} on the host:" if segment.on_host else f"segment {index}, compiled:")
        lines += [f"  {node!r}" for node in segment.graph.nodes]
    return "\n".join(lines)
