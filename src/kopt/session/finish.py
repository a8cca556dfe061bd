"""Completing an artifact on the machine that will run it: native code for every program, in a copy."""

from __future__ import annotations

import logging
from pathlib import Path

from kopt.artifact.manifest import Requirements
from kopt.artifact.read import Artifact
from kopt.artifact.staging import check_writable
from kopt.artifact.write import rewrite
from kopt.errors import IncompatibleArtifactError
from kopt.session.cache import ProgramCache
from kopt.session.ladder import Ladder
from kopt.targets.base import backend
from kopt.targets.xla_threads import limit_threads

_log = logging.getLogger("kopt.session")


def finish(path: str | Path, output: str | Path, *, threads: int | None = None) -> Artifact:
    """Write a copy of an artifact that holds native code for this machine; what fits already is kept.

    Args:
        path: any artifact.
        output: where the copy appears; may be ``path``.
        threads: of the CPU, as in ``load``.

    Raises:
        TargetError: the artifact's device is not on this machine.
        IncompatibleArtifactError: a program packs its weights differently when compiled by what is installed here.
        MissingDependencyError: the installed compiler cannot store native code.
        UsageError: something that is not an artifact is at ``output``.
        FileError: ``output`` cannot be written.
    """
    limit_threads(threads)
    check_writable(Path(output))
    artifact = Artifact.open(path)
    ladder = Ladder(artifact, None, ProgramCache())
    ladder.check_device()
    programs = artifact.manifest.programs
    obstacles = [ladder.native_obstacle(program) for program in programs]
    native: dict[int, bytes] = {}
    if any(obstacles):  # code of another machine has other requirements, so all programs are compiled here
        for index, program in enumerate(programs):
            _log.info("program %d of %d: %s", index + 1, len(programs), obstacles[index] or "compiled for this machine as well")
            native[index], weights = ladder.recompile(program).save()
            if list(weights) != [name for name, _ in program.weights]:
                what = f"program {index} takes other weights when compiled here"
                raise IncompatibleArtifactError(what, where=str(path), next_step="compile the model again on this machine")
    target = ladder.target
    requirements = Requirements(
        target.device,
        target.arch or artifact.manifest.requirements.arch,
        target.isa,
        tuple(sorted(target.required_features)),
        {name: backend(name).version() for name in sorted({program.backend for program in programs})},
    )
    return rewrite(artifact, output, native=native, requirements=requirements if native else None)
