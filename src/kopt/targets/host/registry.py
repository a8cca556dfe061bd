"""The table of host functions: one per ONNX operator, looked up by (domain, op).

A function is written against the canonical opset only::

    @host("NonZero")
    def non_zero(ctx: HostContext, x: np.ndarray) -> np.ndarray: ...

Values are numpy arrays (strings as object arrays of str), lists for sequences, dicts for maps, and None for an optional without a value or
an input that is left out. A function returns one value, or a tuple with one per output, and changes none of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeAlias

from kopt.ir.graph import Node

HostValue: TypeAlias = Any  # np.ndarray | list[HostValue] | None; recursive types defeat the functions' own annotations
HostFunction: TypeAlias = Callable[..., Any]

_FAMILIES = ("counting", "image", "maps", "movement", "sequences", "sizes", "strings")


@dataclass(frozen=True)
class HostContext:
    """What a host function may know besides its input values."""

    node: Node

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; ``default`` only for attributes that the standard gives no default."""
        return self.node.attrs.get(name, default)

    def wants(self, index: int) -> bool:
        """Whether anything may read output ``index``."""
        return index < len(self.node.outputs) and self.node.outputs[index] is not None


_FUNCTIONS: dict[tuple[str, str], HostFunction] = {}


def host(*ops: str, domain: str = "") -> Callable[[HostFunction], HostFunction]:
    """Register one function for the given operators of a domain."""

    def register(function: HostFunction) -> HostFunction:
        for op in ops:
            if (domain, op) in _FUNCTIONS:
                raise RuntimeError(f"{domain}::{op} has two host functions")
            _FUNCTIONS[domain, op] = function
        return function

    return register


def host_function(node: Node) -> HostFunction | None:
    """The host function of a node's operator, or None."""
    _load()
    return _FUNCTIONS.get((node.domain, node.op))


def host_ops() -> frozenset[tuple[str, str]]:
    """All (domain, op) pairs that have a host function."""
    _load()
    return frozenset(_FUNCTIONS)


@lru_cache(maxsize=1)
def _load() -> None:
    """Import every family so that its functions are registered."""
    for family in _FAMILIES:
        import_module(f"kopt.targets.host.{family}")
