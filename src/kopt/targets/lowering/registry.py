"""The table of JAX lowerings: one function per ONNX operator, looked up by (domain, op).

A lowering is written against the canonical opset only (older forms are upgraded on import)::

    @lowers("Gemm")
    def gemm(ctx: LoweringContext, a, b, c=None): ...

It receives the context of its node and the input arrays (None where an optional input is absent) and returns one array
or a tuple, one per output. Inputs named in ``static`` decide shapes: they arrive as numpy arrays, never as tracers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from kopt.errors import InvalidModelError, UnsupportedModelError
from kopt.ir.graph import Attr, Graph, Node

Array: TypeAlias = Any  # jax.Array or a tracer; jax's own types are not strict enough to help here


@dataclass(frozen=True)
class LoweringContext:
    """What a lowering may know besides its input arrays.

    Attributes:
        node: the node, attributes complete, types of all values static.
        evaluate: runs a body graph: (graph, its input arrays, arrays of its captures) -> its outputs.
        options: backend knobs, such as {"conv3x3": "winograd"}.
    """

    node: Node
    evaluate: Callable[[Graph, Sequence[Array], Mapping[Any, Array]], tuple[Array, ...]]
    captures: Mapping[Any, Array]
    options: Mapping[str, Any]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; ``default`` only for attributes that the standard gives no default."""
        return self.node.attrs.get(name, default)

    def axis(self, axis: int, rank: int) -> int:
        """``axis`` counted from the front.

        Raises:
            InvalidModelError: a tensor of that rank has no such axis.
        """
        if not -rank <= axis < rank:
            what = "a scalar has none" if rank == 0 else f"its tensor has the axes {-rank} to {rank - 1}"
            problem = f"{self.node.qualified_op} is asked for axis {axis}, but {what}"
            raise InvalidModelError(problem, where=self.node.loc, next_step="correct the axis in the model")
        return axis % rank

    @property
    def num_outputs(self) -> int:
        """How many output slots the node has."""
        return len(self.node.outputs)

    def wants(self, index: int) -> bool:
        """Whether anything may read output ``index``."""
        return index < len(self.node.outputs) and self.node.outputs[index] is not None

    def unsupported(self, reason: str) -> UnsupportedModelError:
        """The error to raise for a form of the operator that has no lowering."""
        return UnsupportedModelError([(self.node.qualified_op, self.node.loc)], backend="xla", reasons=[reason])


@dataclass(frozen=True)
class Lowering:
    """A registered lowering.

    Attributes:
        function: (ctx, *inputs) -> array or tuple of arrays.
        static: positions of inputs that must be known when compiling; -1 stands for all. A function where the node decides.
    """

    function: Callable[..., Any]
    static: frozenset[int] | Callable[[Node], frozenset[int]]


_LOWERINGS: dict[tuple[str, str], Lowering] = {}


def lowers(
    *ops: str, domain: str = "", static: Sequence[int] | Callable[[Node], frozenset[int]] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register one function as the lowering of the given operators of a domain."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for op in ops:
            if (domain, op) in _LOWERINGS:
                raise RuntimeError(f"{domain}::{op} has two lowerings")
            _LOWERINGS[domain, op] = Lowering(function, static if callable(static) else frozenset(static))
        return function

    return register


def lowering_of(node: Node) -> Lowering | None:
    """The lowering of a node's operator, or None."""
    return _LOWERINGS.get((node.domain, node.op))


def static_inputs(node: Node) -> frozenset[int]:
    """Positions of the inputs of ``node`` that decide shapes and must be known when compiling."""
    found = lowering_of(node)
    if found is None:
        return frozenset()
    static = found.static(node) if callable(found.static) else found.static
    return frozenset(range(len(node.inputs))) if -1 in static else static


def lowered_ops() -> frozenset[tuple[str, str]]:
    """All (domain, op) pairs that have a lowering."""
    return frozenset(_LOWERINGS)


Attrs: TypeAlias = Mapping[str, Attr]
StaticArray: TypeAlias = np.ndarray
