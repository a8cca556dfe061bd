"""How a program comes into memory: native code, else compiled again from StableHLO, else the reference evaluator.

Each step that is not taken is logged with its reason.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kopt.artifact.manifest import StoredProgram, canonical_json
from kopt.artifact.read import Artifact
from kopt.errors import IncompatibleArtifactError, KoptError, MissingDependencyError, ModelError, TargetError, ToolchainError
from kopt.hardware import Target
from kopt.ir.graph import Graph
from kopt.session.cache import CachedProgram, ProgramCache
from kopt.targets.base import Executable, Signature, backend

NATIVE, RECOMPILED, REFERENCE = TIERS = ("native", "recompiled", "reference")
"""Rungs of the ladder, fastest first."""

_log = logging.getLogger("kopt.session")


@dataclass(frozen=True)
class Loaded:
    """A program ready to run.

    Attributes:
        executable: what runs it.
        signature: the inputs it takes, all static.
        tier: the rung it came from.
    """

    executable: Executable
    signature: Signature
    tier: str


class Ladder:
    """Brings programs of one artifact into memory.

    Attributes:
        artifact: checked files.
        require: a tier that must be reached exactly, or None for the fastest that works.
    """

    def __init__(self, artifact: Artifact, require: str | None, cache: ProgramCache) -> None:
        self.artifact = artifact
        self.require = require
        self._cache = cache
        self._lock = threading.Lock()

    @cached_property
    def target(self) -> Target:
        """This machine, as the kind of device the artifact is for; the CPU when only the reference is to run."""
        return Target.parse("cpu" if self.require == REFERENCE else self.artifact.manifest.requirements.device)

    @cached_property
    def graph(self) -> Graph:
        """The model inside the artifact, loaded for shapes that were not compiled."""
        from kopt.frontend.load import load

        with self._lock:
            return load(self.artifact.model_path)

    def check_device(self) -> None:
        """Check that the artifact's device is on this machine.

        Raises:
            TargetError: it is not, and the reference evaluator was not asked for.
        """
        if not self.target.present:
            device = self.artifact.manifest.requirements.device
            raise TargetError(
                f"the artifact is for {device}, and this machine has no such device",
                where=str(self.artifact.path),
                next_step='load it where one is, compile with --target cpu, or load with require="reference" (slow, on the CPU)',
            )

    def native_obstacle(self, program: StoredProgram) -> str | None:
        """Why the stored native code of ``program`` must not be loaded on this machine, or None."""
        needs, target = self.artifact.manifest.requirements, self.target
        if not program.native:
            return "the artifact holds no native code for it"
        missing = sorted(set(needs.features) - target.features) if needs.device == "cpu" else []
        if needs.device == "cpu" and needs.arch != target.arch:
            return f"it is for {needs.arch}, this machine is {target.arch}"
        if missing:
            return f"this CPU lacks {', '.join(missing)}"
        here = backend(program.backend).version()
        wanted = needs.compilers.get(program.backend, "unknown")
        return None if here == wanted else f"it needs exactly {wanted}, installed is {here}"

    def load(self, program: StoredProgram) -> Loaded:
        """A stored program, from the highest rung that works.

        Raises:
            IncompatibleArtifactError: the required tier, or any, cannot be reached.
        """
        reasons: list[str] = []
        steps: tuple[tuple[str, Callable[[StoredProgram], Executable]], ...] = (
            (NATIVE, self._native),
            (RECOMPILED, self.recompile),
            (REFERENCE, self._reference),
        )
        for tier, step in steps:
            if self.require not in (None, tier):
                continue
            try:
                executable = step(program)
            except (IncompatibleArtifactError, ToolchainError, MissingDependencyError, ModelError) as error:
                reasons.append(f"{tier}: {error.what}")
                _log.warning("%s: %s tier not used: %s", self.artifact.path.name, tier, error.what)
                continue
            _log.info("%s: loaded from the %s tier", self.artifact.path.name, tier)
            return Loaded(executable, program.signature, tier)
        wanted = f"the required tier '{self.require}'" if self.require else "any tier"
        raise IncompatibleArtifactError(
            f"the program cannot be loaded from {wanted}: {'; '.join(reasons)}",
            where=str(self.artifact.path),
            next_step="compile the model again here" + (", or load without `require`" if self.require else ""),
        )

    def compile(self, shapes: Mapping[str, Sequence[int]], values: Mapping[str, np.ndarray]) -> Loaded:
        """A program for shapes that the artifact does not hold, from the disk cache or compiled from its model.

        Raises:
            KoptError: the shapes do not fit the model, or its nodes cannot be compiled.
        """
        from kopt.specialize import Recipe, specialize

        if self.require == REFERENCE:
            return self._reference_at(shapes, values)
        recipe = Recipe.from_json(self.artifact.manifest.config)
        sizes = {name: list(shape) for name, shape in shapes.items()}
        key = self._key("model", {"shapes": sizes, "values": values_json(values)}, recipe.backend)
        executable = self._from_cache(key)
        if executable is None:
            _log.info("%s: compiling for %s", self.artifact.path.name, sizes)
            done = specialize(self.graph, recipe, self.target, shapes=shapes, values=values)
            executable = done.compile()
            self._keep(key, executable, done.backend)
        return Loaded(executable, executable.signature, RECOMPILED)

    def _native(self, program: StoredProgram) -> Executable:
        obstacle = self.native_obstacle(program)
        if obstacle:
            raise IncompatibleArtifactError(obstacle)
        code = bytes(self.artifact.read(program.native))
        return backend(program.backend).load(code, self.artifact.program_weights(program), program.signature, self.target)

    def recompile(self, program: StoredProgram) -> Executable:
        """A stored program compiled on this machine: from StableHLO, or where the artifact holds none from its model.

        Raises:
            ToolchainError: the compiler failed.
        """
        build = getattr(backend(program.backend), "compile_portable", None)
        if program.portable and build is not None:
            try:
                return self._from_portable(program, build)
            except ToolchainError as error:
                _log.warning("%s: StableHLO not used: %s; compiling the model", self.artifact.path.name, error.what)
        shapes = program.signature.shapes
        return self.compile(shapes, program.values).executable

    def _from_portable(self, program: StoredProgram, build: Callable[..., Executable]) -> Executable:
        key = self._key("portable", list(self.artifact.manifest.files[program.portable].sha256), program.backend)
        executable = self._from_cache(key)
        if executable is None:
            weights = self.artifact.program_weights(program)
            executable = build(bytes(self.artifact.read(program.portable)), weights, program.signature, self.target)
            self._keep(key, executable, program.backend)
        return executable

    def _reference(self, program: StoredProgram) -> Executable:
        shapes = program.signature.shapes
        return self._reference_at(shapes, program.values).executable

    def _reference_at(self, shapes: Mapping[str, Sequence[int]], values: Mapping[str, np.ndarray]) -> Loaded:
        from kopt.specialize import Recipe, specialize

        target = Target.parse("cpu")
        done = specialize(self.graph, Recipe("reference"), target, shapes=shapes, values=values)
        executable = _OneAtATime(done.compile())
        return Loaded(executable, executable.signature, REFERENCE)

    def _key(self, kind: str, content: Any, backend_name: str) -> str:
        """Everything a compiled program depends on, as one digest."""
        parts = [
            kind,
            self.artifact.manifest.program,
            self.artifact.manifest.kopt,
            self.artifact.manifest.config,
            content,
            backend(backend_name).version(),
            self.target.fingerprint,
        ]
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def _keep(self, key: str, executable: Executable, backend_name: str) -> None:
        """Store a program, with those of its weights that the artifact does not hold."""
        try:
            code, weights = executable.save()
        except MissingDependencyError as error:
            _log.info("not cached: %s", error.what)
            return
        order = tuple((name, _find(array, self.artifact.weights)) for name, array in weights.items())
        own = {name: weights[name] for name, tensor in order if not tensor}
        self._cache.put(key, CachedProgram(code, executable.signature, order, own, backend_name))

    def _from_cache(self, key: str) -> Executable | None:
        """The cached program of that key, None when there is none that loads."""
        cached = self._cache.get(key)
        if cached is None:
            return None
        try:
            weights = {name: self.artifact.weights[tensor] if tensor else cached.own[name] for name, tensor in cached.order}
            return backend(cached.backend).load(cached.code, weights, cached.signature, self.target)
        except (KeyError, KoptError) as error:
            _log.warning("a cached program cannot be loaded (%s); compiling again", error)
            return None


class _OneAtATime:
    """An executable whose backend makes no promise about threads."""

    def __init__(self, executable: Executable) -> None:
        self.signature = executable.signature
        self._executable = executable
        self._lock = threading.Lock()

    def __call__(self, inputs: Sequence[Any]) -> Sequence[Any]:
        with self._lock:
            return self._executable(inputs)

    def save(self) -> tuple[bytes, Mapping[str, np.ndarray]]:
        return self._executable.save()


def values_json(values: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """Values of shape-deciding inputs in JSON types, for cache keys."""
    return {name: [array.dtype.str, list(array.shape), array.tobytes().hex()] for name, array in sorted(values.items())}


def _find(array: np.ndarray, stored: Mapping[str, np.ndarray]) -> str:
    """The stored tensor with the type and content of ``array``, or ""."""
    for name, tensor in stored.items():
        if tensor.dtype != array.dtype or tensor.shape != array.shape:
            continue
        if tensor.ctypes.data == array.ctypes.data or tensor.tobytes() == array.tobytes():
            return name
    return ""
