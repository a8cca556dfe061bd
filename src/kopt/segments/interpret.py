"""Running a host segment: its nodes one by one; the bodies of control flow are graphs that compile what they can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kopt.errors import InputError, UnsupportedModelError
from kopt.hardware import Target
from kopt.ir.graph import Graph, Node, Value
from kopt.segments.body import host_value
from kopt.segments.control import control_step
from kopt.specialize import Recipe
from kopt.targets.host.registry import HostContext, HostFunction, host_function
from kopt.targets.partition import HOST_CONTROL_FLOW

_FAULTS = (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError, ArithmeticError)
"""What a host function raises for values its operator does not accept."""


class HostSegment:
    """The nodes of a host segment as a function of what it reads; may be called from any number of threads."""

    def __init__(self, graph: Graph, recipe: Recipe, target: Target) -> None:
        self.graph = graph
        self._constants = {value: host_value(constant.array(), value) for value, constant in graph.constants.items()}
        self._steps = [(node, _step(node, recipe, target)) for node in graph.nodes]

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """What the segment makes, for one value per input.

        Raises:
            InputError: values that an operator does not accept.
            KoptError: a body cannot be compiled.
        """
        env: dict[Value, Any] = dict(self._constants)
        env.update((value, host_value(item, value)) for value, item in zip(self.graph.inputs, inputs, strict=True))
        for node, step in self._steps:
            results = step([None if value is None else env[value] for value in _reads(node)])
            env.update((value, result) for value, result in zip(node.outputs, results, strict=False) if value is not None)
        return [env[value] for value in self.graph.outputs]


def missing_functions(graph: Graph) -> Iterator[Node]:
    """The nodes of a host segment that nothing here runs."""
    return (node for node in graph.nodes if not _is_control_flow(node) and host_function(node) is None)


def _is_control_flow(node: Node) -> bool:
    return not node.domain and node.op in HOST_CONTROL_FLOW


def _reads(node: Node) -> Sequence[Value | None]:
    """Inputs of a node, then what each of its bodies captures."""
    return (*node.inputs, *(value for body in node.subgraphs() for value in body.captures))


def _step(node: Node, recipe: Recipe, target: Target) -> Any:
    """A node as a function of the values of ``_reads``."""
    if _is_control_flow(node):
        return control_step(node, recipe, target)
    function = host_function(node)
    if function is None:
        raise UnsupportedModelError([(node.qualified_op, node.loc)], backend="host", reasons=["no host function"])
    return _Function(node, function)


class _Function:
    """A host function bound to its node."""

    def __init__(self, node: Node, function: HostFunction) -> None:
        self._node = node
        self._function = function
        self._context = HostContext(node)

    def __call__(self, inputs: Sequence[Any]) -> Sequence[Any]:
        try:
            with np.errstate(all="ignore"):
                results = self._function(self._context, *inputs)
        except _FAULTS as error:
            detail = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{self._node.qualified_op} does not accept its values: {detail}",
                where=str(self._node.loc),
                next_step="give inputs for which it is defined",
            ) from error
        return results if isinstance(results, tuple) else (results,)
