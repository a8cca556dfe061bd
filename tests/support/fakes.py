"""A backend without a compiler, for tests of what surrounds one: its native code is an ONNX model, its weights are arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from kopt.artifact import Artifact, Requirements, Rows
from kopt.artifact.write import Contents, Program, write
from kopt.errors import ToolchainError
from kopt.hardware import Target
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph
from kopt.passes.base import PassContext
from kopt.passes.bind_shapes import BindShapes
from kopt.specialize import Recipe
from kopt.targets.base import Lowered, Signature, Support
from support.equivalence import transcribe

LARGE_BYTES = 256


class FakeExecutable:
    """Runs an ONNX model whose first inputs are the weights."""

    def __init__(self, code: bytes, weights: Mapping[str, np.ndarray], signature: Signature) -> None:
        self.signature = signature
        self.num_calls = 0
        self.weights = weights
        self._code = code
        self._evaluator = ReferenceEvaluator(onnx.load_model_from_string(code))

    def __call__(self, inputs: Sequence[Any]) -> Sequence[Any]:
        self.num_calls += 1
        feeds = {name: np.asarray(array) for (name, _), array in zip(self.signature.inputs, inputs, strict=True)}
        return self._evaluator.run(None, {**feeds, **self.weights})

    def save(self) -> tuple[bytes, Mapping[str, np.ndarray]]:
        return self._code, self.weights


class FakeBackend:
    """Counts what is asked of it; ``installed`` and ``broken`` may be changed by a test."""

    name: ClassVar[str] = "fake"
    installed: ClassVar[str] = "fakec 1.0"
    broken: ClassVar[frozenset[str]] = frozenset()
    calls: ClassVar[list[str]] = []

    def version(self) -> str:
        return self.installed

    def supports(self, graph: Graph, target: Target) -> Support:
        return Support()

    def lower(self, graph: Graph, target: Target, options: Mapping[str, Any] | None = None) -> Lowered:
        self._note("lower")
        large = [value for value, constant in graph.constants.items() if constant.nbytes >= LARGE_BYTES]
        weights = {value.name: graph.constants[value].array() for value in large}
        kept = {value: constant for value, constant in graph.constants.items() if value not in large}
        module = transcribe(graph.replace(inputs=(*graph.inputs, *large), constants=kept)).SerializeToString()
        return Lowered(graph, target, "onnx", "", weights, module)

    def compile(self, lowered: Lowered) -> FakeExecutable:
        self._note("compile")
        return FakeExecutable(lowered.module, lowered.weights, Signature.of(lowered.graph))

    def portable(self, lowered: Lowered) -> bytes:
        return bytes(lowered.module)

    def compile_portable(self, program: bytes, weights: Mapping[str, np.ndarray], signature: Signature, target: Target) -> FakeExecutable:
        self._note("compile_portable")
        return FakeExecutable(program, weights, signature)

    def load(self, code: bytes, weights: Mapping[str, np.ndarray], signature: Signature, target: Target) -> FakeExecutable:
        self._note("load")
        return FakeExecutable(code, weights, signature)

    def _note(self, step: str) -> None:
        if step in self.broken:
            raise ToolchainError(f"{step} is broken")
        self.calls.append(step)


def mlp(rng: np.random.Generator, *, width: int = 32, name: str = "mlp") -> Graph:
    """``y = relu(x @ w + b)``, ``n = sum(x)`` per row, for x of any batch."""
    b = Builder()
    x = b.input("x", "f32", ["N", 16])
    weight = b.constant(rng.standard_normal((16, width)).astype(np.float32), "w")
    bias = b.constant(rng.standard_normal(width).astype(np.float32), "b")
    y = b.emit("Relu", b.emit("Add", b.emit("MatMul", x, weight), bias), hint="y")
    total = b.emit("ReduceSum", x, b.constant(np.array([1], np.int64)), attrs={"keepdims": 0}, hint="n")
    return b.graph(name, [x], [y, total])


def expected_mlp(graph: Graph, x: np.ndarray) -> list[np.ndarray]:
    """What ``mlp`` computes."""
    weight, bias = (constant.array() for constant in graph.constants.values() if constant.array().dtype == np.float32)
    return [np.maximum(x @ weight + bias, 0), x.sum(axis=1)]


def compiled(graph: Graph, batches: Sequence[int], *, backend: Any = None, portable: bool = True, native: bool = True) -> list[Program]:
    """Programs of ``mlp`` for the given batches."""
    chosen, target, programs = backend or FakeBackend(), Target.parse("cpu"), []
    for batch in batches:
        bound = BindShapes(shapes={"x": (batch, 16)}).run(graph, PassContext())
        lowered = chosen.lower(bound, target)
        executable = chosen.compile(lowered)
        code, weights = executable.save()
        stablehlo = chosen.portable(lowered) if portable else b""
        programs.append(Program(chosen.name, executable.signature, {}, code if native else b"", stablehlo, weights))
    return programs


def requirements(backend: Any = None, *, device: str = "cpu") -> Requirements:
    """What this machine offers."""
    chosen, target = backend or FakeBackend(), Target.parse("cpu")
    return Requirements(device, target.arch, target.isa, tuple(sorted(target.required_features)), {chosen.name: chosen.version()})


def artifact_of(
    graph: Graph, path: Path, batches: Sequence[int] = (4,), *, rows: bool = False, backend: Any = None, device: str = "cpu", **options: Any
) -> Artifact:
    """An artifact of ``mlp`` at ``path``."""
    independent = Rows({"x": 0}, {graph.outputs[0].name: 0, graph.outputs[1].name: 0}) if rows else None
    programs = compiled(graph, batches, backend=backend, **options)
    name = (backend or FakeBackend()).name
    x = np.linspace(-1, 1, batches[0] * 16, dtype=np.float32).reshape(batches[0], 16) if batches else np.zeros((0, 16), np.float32)
    outputs = dict(zip((f"0/output/{value.name}" for value in graph.outputs), expected_mlp(graph, x), strict=True))
    contents = Contents(
        graph,
        programs,
        requirements(backend, device=device),
        rows=independent,
        config=Recipe(name).to_json(),
        self_test={"0/input/x": x, **outputs},
        report={"latency": 1.5},
        provenance={"made": "now"},
    )
    return write(contents, path)
