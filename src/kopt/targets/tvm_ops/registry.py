"""The table of translations: one function per ONNX operator, looked up by (domain, op).

::

    @translates("Relu")
    def relu(ctx: Context, x: Tensor) -> Tensor: ...

It receives the context of its node and a tensor per input (None where an optional input is absent), and returns one tensor or a
tuple, one per output. It may add steps to ``ctx.plan``; what it returns may as well be an expression that is computed by whoever
reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from kopt.ir.graph import Node
from kopt.ir.types import TensorType
from kopt.targets.tvm_plan import Plan, Refused, dtype_of
from kopt.targets.tvm_tree import Number, Tensor


@dataclass(frozen=True)
class Context:
    """What a translation may know besides its inputs.

    Attributes:
        plan: steps so far.
        node: attributes complete, types of all values static.
    """

    plan: Plan
    node: Node

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; ``default`` only for attributes that the standard gives no default."""
        found = self.node.attrs.get(name)
        return default if found is None else found

    @property
    def type(self) -> TensorType:
        """Type of the first output."""
        value = self.node.outputs[0]
        if value is None:
            raise Refused("its first output is not named")
        return value.tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self.type.static_shape

    @property
    def dtype(self) -> str:
        """Element type of the first output."""
        return dtype_of(self.type)

    def wants(self, index: int) -> bool:
        """Whether anything may read output ``index``."""
        return index < len(self.node.outputs) and self.node.outputs[index] is not None

    def values(self, tensor: Tensor | None, what: str) -> np.ndarray | None:
        """An input that decides what is computed, None where it is absent.

        Raises:
            Refused: it is only known at run time.
        """
        if tensor is None:
            return None
        found = self.plan.known(tensor)
        if found is None:
            raise Refused(f"its {what} are only known at run time")
        return found

    def number(self, value: float, dtype: str = "") -> Tensor:
        """A scalar of the given type, or of the first output's."""
        return Tensor((), Number(value, dtype or self.dtype))

    def apply(self, name: str, *args: Tensor, dtype: str = "") -> Tensor:
        """An operation on elements; its result has the given type, or that of the first output."""
        return self.plan.apply(name, dtype or self.dtype, *args)


Translation = Callable[..., Any]

Function = TypeVar("Function", bound=Translation)

_TRANSLATIONS: dict[tuple[str, str], Translation] = {}


def translates(*ops: str, domain: str = "") -> Callable[[Function], Function]:
    """Register one function as the translation of the given operators of a domain."""

    def register(function: Function) -> Function:
        for op in ops:
            if (domain, op) in _TRANSLATIONS:
                raise RuntimeError(f"{domain}::{op} has two translations")
            _TRANSLATIONS[domain, op] = function
        return function

    return register


def translation_of(node: Node) -> Translation | None:
    """The translation of a node's operator, or None."""
    return _TRANSLATIONS.get((node.domain, node.op))


def translated_ops() -> frozenset[tuple[str, str]]:
    """All (domain, op) pairs that have a translation."""
    return frozenset(_TRANSLATIONS)
