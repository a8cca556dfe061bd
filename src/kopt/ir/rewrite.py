"""Applying rules: one rebuild of the graph per sweep, bounded rounds, fresh names, kept output names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from kopt.errors import Location
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.pattern import Match, Op, match
from kopt.ir.surgery import Names, keep_output_names, remove_dead, substitute


class Declined(Protocol):
    """Why a rule did not apply."""

    @property
    def reason(self) -> str:
        """The reason, for the report."""
        ...


class Notes(Protocol):
    """Where a sweep notes what its rules did."""

    def skip(self, rule: str, loc: Location, reason: str) -> None:
        """A rule declined."""
        ...

    def applied(self, rule: str, count: int = 1) -> None:
        """A rule applied."""
        ...


Rewriter: TypeAlias = "Callable[[Match, Builder], Value | Declined]"


@dataclass(frozen=True)
class Rule:
    """A pattern and the function that builds what replaces it."""

    name: str
    pattern: Op
    function: Rewriter


def rule(pattern: Op) -> Callable[[Rewriter], Rule]:
    """Make a function, documented as ``before ==> after``, a rule for ``pattern``."""

    def register(function: Rewriter) -> Rule:
        return Rule(function.__name__, pattern, function)

    return register


def rewrite(graph: Graph, rules: Sequence[Rule], notes: Notes, *, max_rounds: int = 4) -> Graph:
    """Apply rules until none applies or the rounds are used up; the graph itself when nothing applied."""
    for _ in range(max_rounds):
        swept = _sweep(graph, rules, notes)
        if swept is graph:
            break
        graph = swept
    return graph


def _sweep(graph: Graph, rules: Sequence[Rule], notes: Notes) -> Graph:
    """One visit per node, in order; a node that took part in a rewrite takes part in no other of this sweep."""
    by_root: dict[tuple[str, str], list[Rule]] = {}
    for each in rules:
        by_root.setdefault((each.pattern.domain, each.pattern.op), []).append(each)
    names = Names.of(graph)
    consumed: set[Node] = set()
    replaced: dict[Value, Value] = {}
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        for each in by_root.get((node.domain, node.op), ()):
            found = match(each.pattern, graph, node, lambda other: other not in consumed)
            if found is None:
                continue
            builder = Builder(names, loc=found.loc)
            result = each.function(found, builder)
            if not isinstance(result, Value):
                notes.skip(each.name, found.loc, result.reason)
                continue
            notes.applied(each.name)
            consumed.update(found.nodes)
            nodes.extend(substitute(new, replaced) for new in builder.nodes)
            constants.update(builder.constants)
            replaced[node.output] = replaced.get(result, result)
            break
        else:
            nodes.append(substitute(node, replaced) if replaced else node)
    if not replaced:
        return graph
    outputs = tuple(replaced.get(value, value) for value in graph.outputs)
    result_graph = remove_dead(graph.replace(nodes=tuple(nodes), outputs=outputs, constants=constants))
    return keep_output_names(result_graph, [value.name for value in graph.outputs])
