"""Sessions: an artifact in memory, called with arrays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from kopt.artifact.manifest import StoredProgram
from kopt.artifact.read import Artifact
from kopt.errors import AccuracyError, CorruptArtifactError, ShapeNotCompiledError, UsageError
from kopt.hardware import available_cores
from kopt.ir.types import DType, TensorType
from kopt.ir.wrappers import on_host
from kopt.once import Once
from kopt.session.arguments import check_inputs
from kopt.session.cache import ProgramCache
from kopt.session.ladder import TIERS, Ladder, Loaded
from kopt.session.plans import Padded, Plan, axes, dispatch_of, larger_batch, same_values
from kopt.targets.base import Signature
from kopt.targets.xla_threads import limit_threads

MAX_PROGRAMS = 16
"""Programs compiled for shapes outside the artifact that stay in memory."""

_MAX_PLANS = 512
_TYPE = attrgetter("shape", "dtype")
_asarray = np.asarray
_log = logging.getLogger("kopt.session")


def load(
    path: str | Path, *, require: str | None = None, exact: bool = False, threads: int | None = None, cache: str | Path | None = None
) -> Session:
    """Load a compiled model.

    Args:
        path: an artifact that `kopt compile` wrote.
        require: "native", "recompiled" or "reference": run on that tier or fail. By default the fastest that works is taken.
        exact: refuse shapes that were not compiled instead of compiling them on first use.
        threads: of the CPU; one number for the whole process, fixed by the first load. By default all cores it may use.
        cache: directory for programs this session compiles; by default one in the user's cache directory.

    Raises:
        CorruptArtifactError: a file is missing, altered or not listed; no native code was loaded.
        IncompatibleArtifactError: the required tier cannot be reached on this machine.
        TargetError: the artifact's device is not on this machine.
        UsageError: an option that does not exist, or another thread count than this process already uses.
    """
    if require is not None and require not in TIERS:
        raise UsageError(f"unknown tier '{require}'", next_step=f"choose one of: {', '.join(TIERS)}")
    if threads is not None:
        limit_threads(threads)
    artifact = Artifact.open(path)
    if threads is None:
        _limit_to(artifact.manifest.config)
    ladder = Ladder(artifact, require, ProgramCache(None if cache is None else Path(cache)))
    return Session(ladder, exact=exact)


def _limit_to(config: Mapping[str, Any]) -> None:
    """As many threads as a search found best, where one did and JAX does not run yet; else as many as there are cores."""
    options = config.get("options")
    found = options.get("threads") if isinstance(options, Mapping) else None
    if isinstance(found, int) and 0 < found < available_cores():
        with suppress(UsageError):
            limit_threads(found)
            return
    limit_threads(None)


class Session:
    """A compiled model in memory; ``run`` may be called from any number of threads.

    Attributes:
        artifact: what was loaded.
        signature: names, element types and shapes of the model's inputs and outputs.
    """

    def __init__(self, ladder: Ladder, *, exact: bool = False) -> None:
        ladder.check_device()
        self.artifact = ladder.artifact
        self.signature: Signature = self.artifact.manifest.signature
        self._ladder = ladder
        self._exact = exact
        self._closed = False
        self._static = tuple(sorted({name for program in self.artifact.manifest.programs for name in program.values}))
        self._names = tuple(name for name, _ in self.signature.inputs)
        self._outputs = tuple(name for name, _ in self.signature.outputs)
        self._num_inputs = len(self._names)
        self._wrapped = self.signature.around
        self._give = on_host if self._wrapped else _asarray
        self._one_to_one = self._num_inputs == len(self._outputs) == 1 and not self._wrapped
        self._first, self._output = (self._names[0], self._outputs[0]) if self._one_to_one else ("", "")
        self._plans: dict[Any, Plan] = {}
        self._stored: Once[Loaded] = Once(len(self.artifact.manifest.programs) + 1)
        self._fresh: Once[Loaded] = Once(MAX_PROGRAMS, self._forget)
        programs = self.artifact.manifest.programs
        for index in range(len(programs) if ladder.require else min(1, len(programs))):
            self._load_stored(index)

    @property
    def tier(self) -> str:
        """The slowest rung that a loaded program came from: "native", "recompiled" (here) or "reference"."""
        loaded = [*self._stored.values(), *self._fresh.values()]
        reached = max((TIERS.index(program.tier) for program in loaded), default=None)
        return (self._ladder.require or TIERS[0]) if reached is None else TIERS[reached]

    def run(self, inputs: Mapping[str, Any], *, on_device: bool = False) -> dict[str, Any]:
        """The model's outputs by name, in graph order.

        Args:
            inputs: an array for each input: numpy, or anything that offers ``__dlpack__``. C-contiguous arrays aligned to
                64 bytes are read in place. A list of arrays for a sequence, a dict for a map; an optional may be left out.
            on_device: give the backend's own arrays, which stay on the device and offer ``__dlpack__``; by default numpy
                arrays, read-only where they share the program's memory.

        Raises:
            InputError: a name, dtype or shape does not fit the signature.
            ShapeNotCompiledError: the session is exact and the artifact does not hold this shape.
            KoptError: compiling for a new shape failed.
        """
        if self._one_to_one and not on_device:  # a tiny model takes a few microseconds in all, so every instruction counts
            try:
                array = inputs[self._first]
                fast = self._plans[array.shape, array.dtype]
            except (LookupError, TypeError, AttributeError):
                fast = None
            if fast is not None and len(inputs) == 1:
                return {self._output: _asarray(fast(array)[0])}
        plan, arrays = self._find(inputs)
        results = plan(*arrays)
        if on_device:
            return dict(zip(self._outputs, _finished(results), strict=True))
        return dict(zip(self._outputs, map(self._give, results), strict=True))

    def call(self, inputs: Mapping[str, Any]) -> Callable[[], Sequence[Any]]:
        """A bound call for timers: inputs are checked and on the device; it returns the backend's arrays, finished.

        Raises:
            InputError: a name, dtype or shape does not fit the signature.
            ShapeNotCompiledError: the session is exact and the artifact does not hold this shape.
        """
        plan, arrays = self._prepare(inputs)
        place = self._place()
        placed = arrays if place is None or isinstance(plan, Padded) else [place(array) for array in arrays]

        def call() -> Sequence[Any]:
            return _finished(plan(*placed))

        return call

    def node_times_ns(self, inputs: Mapping[str, Any], runs: int = 5) -> dict[str, float]:
        """Time of one call by the user's node names, most expensive first; empty where the backend has no profiler.

        Raises:
            InputError: a name, dtype or shape does not fit the signature.
        """
        _, arrays = self._prepare(inputs)
        if self._wrapped:
            return {}
        shapes = [tuple(array.shape) for array in arrays]
        for loaded in (*self._stored.values(), *self._fresh.values()):
            profile = getattr(loaded.executable, "node_times_ns", None)
            if profile is not None and [tensor.static_shape for _, tensor in loaded.signature.inputs] == shapes:
                times: dict[str, float] = profile(arrays, runs)
                return times
        return {}

    def warmup(self) -> None:
        """Load and run every compiled shape once, so that no request pays for it.

        Raises:
            KoptError: a program cannot be loaded or fails.
        """
        for index, program in enumerate(self.artifact.manifest.programs):
            loaded = self._load_stored(index)
            if program.signature.around:  # no value can be made up for them that every model takes
                continue
            loaded.executable([_blank(tensor) for _, tensor in program.signature.inputs])

    def self_test(self, *, rtol: float = 1e-3, atol: float = 1e-4) -> dict[str, float]:
        """Run the inputs stored in the artifact and compare with the stored reference outputs.

        Args:
            rtol: accepted difference relative to the largest magnitude of an output.
            atol: accepted absolute difference.

        Returns:
            The largest absolute difference of each "<program>/<output>"; empty when the artifact holds no test.

        Raises:
            AccuracyError: an output differs by more.
        """
        stored = self.artifact.self_test
        worst: dict[str, float] = {}
        for index, program in enumerate(self.artifact.manifest.programs):
            feeds = {name: stored.get(f"{index}/input/{name}", program.values.get(name)) for name in self._names}
            if any(array is None for array in feeds.values()):
                continue
            for name, found in self.run(feeds).items():
                reference = stored.get(f"{index}/output/{name}")
                if reference is not None:
                    worst[f"{index}/{name}"] = _difference(name, found, reference, rtol=rtol, atol=atol, where=str(self.artifact.path))
        return worst

    def close(self) -> None:
        """Let go of all programs; later calls are refused."""
        self._closed = True
        self._plans.clear()
        self._stored.clear()
        self._fresh.clear()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Session('{self.artifact.path}', tier='{self.tier}')"

    def _find(self, inputs: Mapping[str, Any]) -> tuple[Plan, Sequence[Any]]:
        """The plan for inputs of types that were met before, else as ``_prepare``."""
        try:
            arrays = [inputs[name] for name in self._names]
            types = tuple(map(_TYPE, arrays))
            plan = self._plans[types[0] if self._one_to_one else types]
        except (LookupError, TypeError, AttributeError):
            return self._prepare(inputs)
        return (plan, arrays) if len(inputs) == self._num_inputs else self._prepare(inputs)

    def _prepare(self, inputs: Mapping[str, Any]) -> tuple[Plan, list[Any]]:
        """Check the inputs; the plan for their shapes, and the arrays it takes."""
        if self._closed:
            raise UsageError("the session is closed", where=str(self.artifact.path), next_step="load the artifact again")
        arrays = check_inputs(inputs, self.signature, str(self.artifact.path))
        values = {name: np.asarray(array) for name, array in zip(self._names, arrays, strict=True) if name in self._static}
        taken = [array for name, array in zip(self._names, arrays, strict=True) if name not in values]
        types: tuple[Any, ...] = tuple(_TYPE(array) if hasattr(array, "dtype") else None for array in taken)
        key = (types, *(array.tobytes() for array in values.values())) if values else types[0] if self._one_to_one else types
        plan = self._plans.get(key)
        if plan is None:
            fixed = (*values, *self._wrapped)
            shapes = {name: tuple(array.shape) for name, array in zip(self._names, arrays, strict=True) if name not in fixed}
            plan = self._plan(key, shapes, values)
        return plan, taken

    def _plan(self, key: Any, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> Plan:
        """Find or make the program for these shapes and remember what to do for them."""
        programs = self.artifact.manifest.programs
        plan: Plan | None = None
        for index, program in enumerate(programs):
            if _takes(program, shapes) and same_values(program.values, values):
                plan = dispatch_of(self._load_stored(index).executable)
        padded = larger_batch(programs, self.artifact.manifest.rows, shapes, values) if plan is None else None
        if padded is not None and self.artifact.manifest.rows is not None:
            index, num_rows, batch = padded
            loaded, rows = self._load_stored(index), self.artifact.manifest.rows
            taken, given = axes(programs[index].signature.inputs, rows.inputs), axes(programs[index].signature.outputs, rows.outputs)
            plan = Padded(loaded.executable, taken, given, num_rows, batch)
        if plan is None:
            return self._plan_fresh(key, shapes, values)
        if len(self._plans) >= _MAX_PLANS:  # padded sizes are cheap to plan again
            self._plans.clear()
        self._plans[key] = plan
        return plan

    def _plan_fresh(self, key: Any, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> Plan:
        """Compile for shapes the artifact does not hold. Its plan asks the bounded store each time, which keeps it recent."""
        if self._exact:
            spelled = ", ".join(f"{name}: {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items())
            held = "; ".join(_spell(program) for program in self.artifact.manifest.programs) or "none"
            raise ShapeNotCompiledError(
                f"the artifact holds no program for {spelled}", where=str(self.artifact.path), next_step=f"compiled shapes: {held}"
            )
        make = partial(self._ladder.compile, shapes, values)
        self._fresh.get(key, make)

        def plan(*arrays: Any) -> Sequence[Any]:
            return self._fresh.get(key, make).executable(arrays)

        self._plans[key] = plan
        return plan

    def _place(self) -> Callable[[Any], Any] | None:
        """What puts an input on the device, where the backend has such a thing."""
        loaded = [*self._stored.values(), *self._fresh.values()]
        return next((place for program in loaded if (place := getattr(program.executable, "place", None))), None)

    def _load_stored(self, index: int) -> Loaded:
        program = self.artifact.manifest.programs[index]
        return self._stored.get(index, partial(self._ladder.load, program))

    def _forget(self, key: Any) -> None:
        self._plans.pop(key, None)


def _finished(results: Sequence[Any]) -> Sequence[Any]:
    """The results once they are computed; XLA gives them out earlier."""
    for result in results:
        wait = getattr(result, "block_until_ready", None)
        if wait is not None:
            wait()
    return results


def _takes(program: StoredProgram, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return program.signature.shapes == dict(shapes)


def _blank(tensor: TensorType) -> np.ndarray:
    """Zeros, or empty strings."""
    return np.full(tensor.static_shape, "" if tensor.dtype is DType.STRING else 0, tensor.dtype.numpy)


def _spell(program: StoredProgram) -> str:
    return ", ".join(f"{name}: {program.signature.type_of(name)}" for name, _ in program.signature.inputs)


def _difference(name: str, found: np.ndarray, reference: np.ndarray, *, rtol: float, atol: float, where: str) -> float:
    if found.shape != reference.shape or found.dtype != reference.dtype:
        raise CorruptArtifactError(f"the self-test of '{name}' has another type than the program", where=where)
    if not reference.size:
        return 0.0
    wide = np.complex128 if np.iscomplexobj(reference) else np.float64
    one, other = found.astype(wide), reference.astype(wide)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(one - other))
    finite = np.abs(other[np.isfinite(other)])
    limit = atol + rtol * float(finite.max(initial=0.0))
    worst = float(np.max(difference))
    if not worst <= limit:
        raise AccuracyError(
            f"output '{name}' differs from the reference by {worst:.3g}, accepted is {limit:.3g}",
            where=where,
            next_step="compile the model again on this machine",
        )
    return worst
