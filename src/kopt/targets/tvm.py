"""Backend "tvm": whole graphs as one sequence of loop nests that TVM compiles, for a CPU and f32.

Nothing is scheduled by TVM: every nest is written out with its vectors and tasks (``kernels``, ``tvm_nest``, ``tvm_row_nest``).
Intermediate results lie in one arena, weights are packed while compiling, and the program brings its own threads. The library
needs libc alone, so that an artifact loads where TVM is not installed.
"""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kopt.errors import MissingDependencyError, ToolchainError, UnsupportedModelError
from kopt.hardware import Target, available_cores
from kopt.ir.constant import aligned_copy
from kopt.ir.graph import Graph
from kopt.targets.base import Lowered, Signature, Support
from kopt.targets.kernels.library import compiled, described, machine_of, obstacle
from kopt.targets.kernels.schedule import Schedule, can_search
from kopt.targets.tvm_source import pieces_of, source_of, text_of
from kopt.targets.tvm_translate import Program, translate

_THREADS = "NPROC"
"""The variable that says how many threads this process may use, as XLA reads it too."""


class TvmExecutable:
    """A loaded program with its weights bound; calls may come from any number of threads.

    Each call takes an arena of its own from those that no other call uses.

    Attributes:
        signature: inputs and outputs.
    """

    def __init__(self, code: bytes, weights: Mapping[str, np.ndarray], signature: Signature) -> None:
        self.signature = signature
        self._code = code
        self._weights = {name: _aligned(array) for name, array in weights.items()}
        self._library = _loaded(code)
        self._run = self._library.kopt_run
        self._run.argtypes, self._run.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p), None
        size = ctypes.c_int64.in_dll(self._library, "kopt_arena_bytes").value
        wanted = ctypes.c_int64.in_dll(self._library, "kopt_num_bases").value
        self._first = 1 + len(self._weights)
        if wanted != self._first + len(signature.inputs) + len(signature.outputs):
            raise ToolchainError("the stored program takes other arrays than the artifact holds", next_step="compile the model again")
        self._arena_bytes, self._num_bases = size, wanted
        self._idle: list[tuple[Any, np.ndarray]] = []
        self._inputs = [(tensor.dtype.numpy, tensor.static_shape) for _, tensor in signature.inputs]
        self._outputs = [(tensor.dtype.numpy, tensor.static_shape) for _, tensor in signature.outputs]
        self._threads = _threads()

    def __call__(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Run on arrays in signature order; numpy arrays aligned to 64 bytes are read in place, others are copied first."""
        return self._called(inputs, None)

    def node_times_ns(self, inputs: Sequence[Any], runs: int = 5) -> dict[str, float]:
        """Time of one call by the user's node names, most expensive first; a fused loop counts for the node that ends it."""
        nodes = json.loads(ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(self._library, "kopt_nodes"))).decode())
        self._called(inputs, None)
        passed = np.zeros(max(1, len(nodes)), np.int64)
        for _ in range(runs):
            self._called(inputs, passed)
        times: Counter[str] = Counter()
        for node, total in zip(nodes, passed.tolist(), strict=False):
            times[node] += total
        return {node: total / runs for node, total in times.most_common()}

    def _called(self, inputs: Sequence[Any], passed: np.ndarray | None) -> list[np.ndarray]:
        given = [_ready(array, dtype) for array, (dtype, _) in zip(inputs, self._inputs, strict=True)]
        results = [_empty(dtype, shape) for dtype, shape in self._outputs]
        try:
            bases, arena = self._idle.pop()
        except IndexError:
            bases, arena = self._fresh()
        for place, array in enumerate((*given, *results), self._first):
            bases[place] = array.ctypes.data
        self._run(bases, self._threads, None if passed is None else passed.ctypes.data)
        self._idle.append((bases, arena))
        return results

    def place(self, array: np.ndarray) -> np.ndarray:
        """An input where calls read it in place."""
        return _aligned(np.asarray(array))

    def _fresh(self) -> tuple[Any, np.ndarray]:
        """A table of the program's arrays with an arena and the weights in it."""
        arena = _empty(np.dtype(np.uint8), (max(1, self._arena_bytes),))
        bases = (ctypes.c_void_p * self._num_bases)()
        for place, array in enumerate((arena, *self._weights.values())):
            bases[place] = array.ctypes.data
        return bases, arena

    def save(self) -> tuple[bytes, Mapping[str, np.ndarray]]:
        """The shared library, and the weights it takes in order."""
        return self._code, self._weights


class TvmBackend:
    """Loop nests compiled by TVM."""

    name: ClassVar[str] = "tvm"

    def version(self) -> str:
        """What native code depends on where it is loaded: the convention of its calls, nothing of TVM."""
        return "tvm program 1"

    def supports(self, graph: Graph, target: Target) -> Support:
        """Whether every node has a translation for its types and attributes; nothing is compiled."""
        if target.device != "cpu":
            return Support(tuple((node.qualified_op, node.loc, "this backend compiles for a CPU") for node in graph.nodes))
        return Support(translate(graph, target).unsupported)

    def lower(self, graph: Graph, target: Target, options: Mapping[str, Any] | None = None) -> Lowered:
        """The steps of the program, and its weights as they are packed for them.

        Args:
            graph: all types static.
            target: a CPU.
            options: "schedules" of kernels, by the digest of their workload, in JSON types.

        Raises:
            UnsupportedModelError: nodes that have no translation, all of them listed.
        """
        schedules = {digest: Schedule.from_json(one) for digest, one in (options or {}).get("schedules", {}).items()}
        program = translate(graph, target, schedules)
        if program.unsupported:
            nodes = [(op, where) for op, where, _ in program.unsupported]
            raise UnsupportedModelError(nodes, backend=self.name, reasons=[reason for _, _, reason in program.unsupported])
        weights = {name: _stored(make()) for name, make in program.constants.items()}
        count = Counter(type(step.piece).__name__ for step in program.steps)
        calls = Counter(step.piece for step in program.steps if can_search(step.piece))
        return Lowered(graph, target, "tir", text_of(program), weights, program, dict(count), list(calls.items()))

    def compile(self, lowered: Lowered) -> TvmExecutable:
        """Native code, built in a process of its own.

        Raises:
            MissingDependencyError: TVM or a C compiler is missing.
            ToolchainError: one of them failed.
        """
        code = build(lowered.module, lowered.target)
        return TvmExecutable(code, lowered.weights, Signature.of(lowered.graph))

    def load(self, code: bytes, weights: Mapping[str, np.ndarray], signature: Signature, target: Target) -> TvmExecutable:
        """Native code from an artifact; the caller has checked its hash.

        Raises:
            ToolchainError: the library cannot be loaded here.
        """
        del target
        return TvmExecutable(code, weights, signature)


def build(program: Program, target: Target) -> bytes:
    """A shared library that runs the program.

    Raises:
        MissingDependencyError: TVM or a C compiler is missing.
        ToolchainError: one of them failed.
    """
    missing = obstacle()
    if missing:
        raise MissingDependencyError(f"nothing can be compiled: {missing}", next_step="install it, or compile with --backend xla")
    request = {"pieces": described(pieces_of(program)), "source": source_of(program), **machine_of(target)}
    return compiled("kopt.targets.tvm_build", request)


def _loaded(code: bytes) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="kopt-tvm-") as folder:
        path = Path(folder) / "program.so"
        path.write_bytes(code)
        try:
            library = ctypes.CDLL(str(path))
            _ = library.kopt_run
        except (OSError, AttributeError) as error:
            raise ToolchainError(f"the stored program cannot be loaded: {error}", next_step="compile the model again") from error
    return library


def _threads() -> int:
    """As many as sessions were told to use: the same variable that XLA reads, set where nobody set it."""
    given = os.environ.setdefault(_THREADS, str(available_cores()))
    return int(given) if given.isdecimal() and int(given) else available_cores()


def _empty(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """An array at a 64-byte boundary."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


def _aligned(array: np.ndarray) -> np.ndarray:
    return array if array.flags.c_contiguous and array.ctypes.data % 64 == 0 else aligned_copy(array)


def _ready(array: Any, dtype: np.dtype[Any]) -> np.ndarray:
    return _aligned(np.asarray(array, dtype))


def _stored(array: np.ndarray) -> np.ndarray:
    return _aligned(np.ascontiguousarray(array))
