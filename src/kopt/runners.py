"""Runtimes to measure, each in a process of its own that sleeps while another one runs.

Two spinning thread pools in one process take each other's cores, so nothing is ever timed beside another runtime. A child
speaks JSON lines: it announces itself when its model is loaded, then answers one request at a time.
Usage of the child: ``python -m kopt.runners KIND MODEL INPUTS THREADS``
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import IO, Any, cast

import numpy as np

from kopt.errors import MissingDependencyError, ToolchainError, UsageError
from kopt.ir.constant import aligned_copy
from kopt.measure import Measurement, Protocol, abba, time_block

KINDS = {"kopt": None, "onnxruntime": "ort", "openvino": "openvino"}
"""Kind of runner -> the extra that installs it."""

_START_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Started:
    """What a child reports once it is ready.

    Attributes:
        import_s, load_s, first_s: seconds to import the runtime, to load the model, and of the first inference.
        version: of the runtime.
    """

    import_s: float
    load_s: float
    first_s: float
    version: str


class Runner:
    """A child process that holds one model in one runtime; use it as a context manager."""

    def __init__(self, kind: str, model: str | Path, inputs: Mapping[str, np.ndarray], *, threads: int) -> None:
        """Start the child and wait until its model has answered once.

        Raises:
            UsageError: unknown kind.
            MissingDependencyError: the runtime is not installed.
            ToolchainError: the runtime cannot load or run the model.
        """
        require(kind)
        for name, array in inputs.items():
            if array.dtype == object:
                raise ToolchainError(
                    f"{kind} cannot be given strings here: input '{name}'", next_step="measure the part of the model after it"
                )
        self.kind = kind
        self._folder = tempfile.TemporaryDirectory(prefix="kopt-runner-")
        _write_arrays(Path(self._folder.name, "inputs"), list(inputs.values()))
        Path(self._folder.name, "names.json").write_text(json.dumps(list(inputs)))
        self._errors = Path(self._folder.name, "stderr").open("w+")  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kopt.runners", kind, str(model), self._folder.name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(threads),
            text=True,
        )
        timer = Timer(_START_TIMEOUT_S, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            self.started = Started(**self._receive())
        except BaseException:  # an interrupt too must not leave the child behind
            self.close()
            raise
        finally:
            timer.cancel()

    def block(self, block_s: float, min_calls: int, max_s: float | None = None) -> list[int]:
        """Time calls for a while, as ``time_block`` does; nanoseconds each."""
        return cast("list[int]", self._ask({"block_s": block_s, "min_calls": min_calls, "max_s": max_s})["samples_ns"])

    def outputs(self) -> list[np.ndarray]:
        """The model's outputs for the runner's inputs, in model order."""
        self._ask({"outputs": True})
        return _read_arrays(Path(self._folder.name, "outputs"))

    def peak_bytes(self) -> int:
        """Peak resident memory of the child so far."""
        return int(self._ask({"memory": True})["peak_bytes"])

    def node_times_ns(self) -> dict[str, float]:
        """Time by node name, where the runtime tells it."""
        return cast("dict[str, float]", self._ask({"profile": True})["node_times_ns"])

    def close(self) -> None:
        """End the child."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):  # a request that a dead child never read is flushed once more
                    stream.close()
        self._folder.cleanup()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        stdin = cast("IO[str]", self._process.stdin)
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # the child is gone; its last words are read below
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        line = cast("IO[str]", self._process.stdout).readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise ToolchainError(f"{self.kind} failed: {answer['error']}", next_step="see its own documentation for this message")
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"its process ended with code {self._process.returncode}"


def child_environment(threads: int) -> dict[str, str]:
    """This process's environment with the thread count that runtimes read when they start."""
    return {**os.environ, "NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}


def require(kind: str) -> None:
    """Refuse a runtime that is unknown or absent.

    Raises:
        UsageError: unknown kind.
        MissingDependencyError: the runtime is not installed.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown runner '{kind}'", next_step=f"choose one of: {', '.join(KINDS)}")
    if not available(kind):
        raise MissingDependencyError(f"{kind} is not installed", next_step=f"pip install 'kopt[{KINDS[kind]}]'")


def available(kind: str) -> bool:
    """Whether the runtime of a runner is installed."""
    return kind == "kopt" or find_spec(kind) is not None


def alternate(runners: Sequence[Runner], protocol: Protocol, progress: Callable[[int], None] | None = None) -> list[Measurement]:
    """Measure runners in turn, block by block, the order reversed in every other round."""
    for runner in runners:
        runner.block(protocol.warmup_s, 3)
    blocks: list[list[tuple[int, ...]]] = [[] for _ in runners]
    for number, (first, _) in enumerate(abba(protocol.rounds)):
        order = range(len(runners)) if first == 0 else range(len(runners) - 1, -1, -1)
        for index in order:
            blocks[index].append(tuple(runners[index].block(protocol.block_s, protocol.min_calls)))
        if progress is not None:
            progress(number + 1)
    return [Measurement(tuple(side)) for side in blocks]


@dataclass(frozen=True)
class _Bound:
    """A model with its inputs bound: what the timer calls, the outputs, and where the time goes."""

    call: Callable[[], object]
    outputs: Callable[[], list[np.ndarray]]
    node_times_ns: Callable[[], dict[str, float]] = dict


def _open_kopt(model: str, threads: int) -> tuple[Callable[[dict[str, np.ndarray]], _Bound], str]:
    from kopt import __version__
    from kopt.session import load

    session = load(model, threads=threads)

    def bind(feeds: dict[str, np.ndarray]) -> _Bound:
        return _Bound(
            session.call(feeds),
            lambda: [np.asarray(array) for array in session.run(feeds).values()],
            lambda: session.node_times_ns(feeds),
        )

    return bind, __version__


def _open_onnxruntime(model: str, threads: int) -> tuple[Callable[[dict[str, np.ndarray]], _Bound], str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def bind(feeds: dict[str, np.ndarray]) -> _Bound:
        named = {name: feeds[name] for name in names}

        def call() -> list[np.ndarray]:
            return list(session.run(None, named))

        return _Bound(call, call)

    return bind, onnxruntime.__version__


def _open_openvino(model: str, threads: int) -> tuple[Callable[[dict[str, np.ndarray]], _Bound], str]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def bind(feeds: dict[str, np.ndarray]) -> _Bound:
        ordered = [feeds[port.get_any_name()] for port in compiled.inputs]

        def outputs() -> list[np.ndarray]:
            found = request.infer(ordered)
            return [np.array(found[port]) for port in compiled.outputs]

        return _Bound(lambda: request.infer(ordered, share_inputs=True), outputs)

    return bind, openvino.__version__.split("-")[0]


_OPENERS = {"kopt": _open_kopt, "onnxruntime": _open_onnxruntime, "openvino": _open_openvino}


def _import_runtime(kind: str, model: str) -> None:
    """Import what runs the model; of kopt's compilers those that the artifact's programs need, because a program of loops needs no JAX."""
    if kind != "kopt":
        import_module(kind)
        return
    from kopt.artifact.read import read_manifest
    from kopt.targets.base import backend

    for name in {program.backend for program in read_manifest(Path(model)).programs}:
        backend(name)


def _write_arrays(stem: Path, arrays: Sequence[np.ndarray]) -> None:
    """Arrays with their dtypes beside them: .npz files know no bfloat16 and give plain bytes back."""
    np.savez(stem.with_suffix(".npz"), allow_pickle=False, **{f"array_{k}": array for k, array in enumerate(arrays)})
    stem.with_suffix(".json").write_text(json.dumps([array.dtype.name for array in arrays]))


def _read_arrays(stem: Path) -> list[np.ndarray]:
    dtypes = json.loads(stem.with_suffix(".json").read_text())
    with np.load(stem.with_suffix(".npz"), allow_pickle=False) as stored:
        arrays = [stored[f"array_{k}"] for k in range(len(dtypes))]
    return [array.view(_dtype(name)) if array.dtype.kind == "V" else array for array, name in zip(arrays, dtypes, strict=True)]


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def _serve(kind: str, model: str, folder: str, threads: int, reply: Callable[[Mapping[str, Any]], None]) -> None:
    names = json.loads(Path(folder, "names.json").read_text())
    feeds = {name: aligned_copy(array) for name, array in zip(names, _read_arrays(Path(folder, "inputs")), strict=True)}
    start = time.perf_counter()
    _import_runtime(kind, model)
    imported = time.perf_counter()
    bind, version = _OPENERS[kind](model, threads)
    loaded = time.perf_counter()
    bound = bind(feeds)
    bound.call()
    first = time.perf_counter()
    reply({"import_s": imported - start, "load_s": loaded - imported, "first_s": first - loaded, "version": version})
    for line in sys.stdin:
        request = json.loads(line)
        if "block_s" in request:
            reply({"samples_ns": time_block(bound.call, request["block_s"], request["min_calls"], request["max_s"])})
        elif "outputs" in request:
            _write_arrays(Path(folder, "outputs"), bound.outputs())
            reply({})
        elif "profile" in request:
            reply({"node_times_ns": bound.node_times_ns()})
        else:
            reply({"peak_bytes": _peak_bytes()})


def _peak_bytes() -> int:
    """Peak resident memory of this process. ``ru_maxrss`` would start at the parent's, which fork hands down."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str]) -> int:
    """The child's side; see the module's usage line."""
    kind, model, folder, threads = arguments
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a runtime prints must not mix with the answers

    def reply(answer: Mapping[str, Any]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    try:
        _serve(kind, model, folder, int(threads), reply)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # any runtime's own exception becomes one line for the parent
        reply({"error": str(error).splitlines()[0] if str(error) else type(error).__name__})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
