"""What a backend is: six methods in one file, importing one compiler.

``lower`` turns a fully static graph into the compiler's language, ``compile`` into an Executable, which an artifact stores
as blobs and ``load`` brings back in another process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np

from kopt.errors import Location, UsageError
from kopt.hardware import Target
from kopt.ir.graph import Graph
from kopt.ir.types import TensorType, Type
from kopt.ir.wrappers import Wrappers, unwrap, wrap

BACKENDS = {
    "reference": "kopt.targets.reference:ReferenceBackend",
    "segments": "kopt.segments.backend:SegmentsBackend",
    "tvm": "kopt.targets.tvm:TvmBackend",
    "xla": "kopt.targets.xla:XlaBackend",
}


@dataclass(frozen=True)
class Support:
    """Whether a backend can compile a graph, and the nodes that stand in the way."""

    unsupported: tuple[tuple[str, Location, str], ...] = ()  # (op, where, reason)

    def __bool__(self) -> bool:
        return not self.unsupported


@dataclass(frozen=True)
class Signature:
    """Names and types of inputs and outputs, in graph order.

    Attributes:
        inputs: with the type of their tensors.
        outputs: likewise.
        wrappers: of those that are sequences, optionals or maps, what is around these tensors; see ``kopt.ir.wrappers``.
    """

    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    wrappers: tuple[tuple[str, Wrappers], ...] = ()

    @classmethod
    def of(cls, graph: Graph) -> Signature:
        """The signature of a graph."""
        parts = [[(value.name, *unwrap(value.type)) for value in values] for values in (graph.inputs, graph.outputs)]
        inputs, outputs = (tuple((name, tensor) for name, tensor, _ in part) for part in parts)
        return cls(inputs, outputs, tuple({name: around for part in parts for name, _, around in part if around}.items()))

    @cached_property
    def around(self) -> Mapping[str, Wrappers]:
        """``wrappers`` by name."""
        return dict(self.wrappers)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs that are tensors.

        Raises:
            ValueError: one of them is not static.
        """
        return {name: tensor.static_shape for name, tensor in self.inputs if name not in self.around}

    def type_of(self, name: str) -> Type:
        """The whole type of an input or output."""
        return wrap(dict((*self.inputs, *self.outputs))[name], self.around.get(name, ()))


@dataclass(frozen=True)
class Lowered:
    """A graph in a compiler's own language.

    Attributes:
        graph: what was lowered; all types static.
        dialect: "stablehlo", "tir" or "onnx".
        text: for people (`kopt inspect --stage lowered`).
        weights: the arrays the program takes as arguments before its inputs, by name.
        module: the backend's own handle.
        kernels: kopt's own kernels that the program calls: kind -> how many.
        kernel_calls: each of these kernels, and how often it is called.
    """

    graph: Graph
    target: Target
    dialect: str
    text: str
    weights: Mapping[str, np.ndarray]
    module: Any = field(repr=False)
    kernels: Mapping[str, int] = field(default_factory=dict)
    kernel_calls: Sequence[tuple[Any, int]] = field(default=(), repr=False)


class Executable(Protocol):
    """A compiled program with its weights bound; thread-safe."""

    signature: Signature

    def __call__(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Run on device-ready or numpy inputs, in signature order; returns the backend's arrays (finished)."""
        ...

    def save(self) -> tuple[bytes, Mapping[str, np.ndarray]]:
        """The native code, and the weights it takes in order."""
        ...


class Backend(Protocol):
    """A compiler."""

    name: ClassVar[str]

    def version(self) -> str:
        """Version of the compiler, part of every cache key."""
        ...

    def supports(self, graph: Graph, target: Target) -> Support:
        """Whether every node can be compiled."""
        ...

    def lower(self, graph: Graph, target: Target, options: Mapping[str, Any] | None = None) -> Lowered:
        """The graph in the compiler's language."""
        ...

    def compile(self, lowered: Lowered) -> Executable:
        """Native code, ready to run."""
        ...

    def load(self, code: bytes, weights: Mapping[str, np.ndarray], signature: Signature, target: Target) -> Executable:
        """Native code from an artifact; the caller has checked its hash."""
        ...


def backend(name: str) -> Backend:
    """The backend of that name; imports its compiler.

    Raises:
        UsageError: unknown name.
    """
    if name not in BACKENDS:
        raise UsageError(f"unknown backend '{name}'", next_step=f"choose one of: {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    return import_module(module).__getattribute__(attribute)()  # type: ignore[no-any-return]
