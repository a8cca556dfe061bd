"""What a pass is: a frozen dataclass with a name, whose fields are its options."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np

from kopt.errors import InvalidModelError, Location, PassError
from kopt.ir.graph import Graph, Node


@dataclass(frozen=True, slots=True)
class Skip:
    """A rule matched but declined; the reason is shown in the report."""

    reason: str


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What one pass did.

    Attributes:
        name: the pass.
        spec: its spelling with options, as on the command line.
        seconds: wall time.
        num_nodes_before, num_nodes_after: sizes of the graph.
        rewrites: how often each rule applied.
        skips: (rule, node names, reason) of matches that were declined.
    """

    name: str
    spec: str
    seconds: float
    num_nodes_before: int
    num_nodes_after: int
    rewrites: dict[str, int]
    skips: tuple[tuple[str, tuple[str, ...], str], ...]


EvaluateNode = Callable[[Node, Sequence["np.ndarray | None"]], tuple[np.ndarray, ...]]
EvaluateGraph = Callable[[Graph, Sequence[np.ndarray]], tuple[np.ndarray, ...]]


@dataclass
class PassContext:
    """What passes share during one pipeline run.

    Attributes:
        evaluate_node: computes one node on arrays; injected by the compiler so that passes need no backend.
        evaluate: computes a whole graph on arrays, inputs in order; injected likewise, None where nothing may be run.
        skips: declined matches of the running pass.
        rewrites: how often each rule of the running pass applied.
    """

    evaluate_node: EvaluateNode | None = None
    evaluate: EvaluateGraph | None = None
    skips: list[tuple[str, tuple[str, ...], str]] = field(default_factory=list)
    rewrites: dict[str, int] = field(default_factory=dict)

    def skip(self, rule: str, loc: Location, reason: str) -> None:
        """Note that ``rule`` declined at ``loc``."""
        self.skips.append((rule, loc.nodes, reason))

    def applied(self, rule: str, count: int = 1) -> None:
        """Note that ``rule`` applied."""
        self.rewrites[rule] = self.rewrites.get(rule, 0) + count


@runtime_checkable
class Pass(Protocol):
    """A graph-to-graph function with options; returns the very same graph when nothing changed."""

    name: ClassVar[str]

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The transformed graph."""
        ...


_PASSES: dict[str, type[Any]] = {}
P = TypeVar("P")


def register(cls: type[P]) -> type[P]:
    """Make a pass known by its name.

    Raises:
        RuntimeError: two passes of one name (a defect of kopt).
    """
    name = cls.name  # type: ignore[attr-defined]
    if name in _PASSES:
        raise RuntimeError(f"two passes are named '{name}'")
    _PASSES[name] = cls
    return cls


def registered_passes() -> dict[str, type[Any]]:
    """All passes by name; importing ``kopt.passes.pipeline`` registers the built-in ones."""
    return dict(_PASSES)


def run_pass(pass_: Pass, graph: Graph, ctx: PassContext, spec: str = "") -> tuple[Graph, PassRecord]:
    """Run one pass, verify its result and record what it did.

    Raises:
        PassError: the pass broke the graph (a defect of kopt, not of the model).
    """
    ctx.skips, ctx.rewrites = [], {}
    start = time.perf_counter()
    result = pass_.run(graph, ctx)
    if result is not graph:
        try:
            result.verify()
        except InvalidModelError as error:
            what = f"pass '{pass_.name}' broke the graph: {error.what}"
            raise PassError(what, where=error.where, next_step="leave the pass out, and report this as a defect of kopt") from error
    record = PassRecord(
        pass_.name,
        spec or pass_.name,
        time.perf_counter() - start,
        len(graph.nodes),
        len(result.nodes),
        dict(ctx.rewrites),
        tuple(ctx.skips),
    )
    return result, record
