"""Completing an artifact: native code for this machine where it has none that loads here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kopt.artifact import Artifact
from kopt.artifact.write import rewrite
from kopt.hardware import Target
from kopt.targets.base import backend


def finish(artifact: str | Path, output: str | Path, progress: Callable[[str], None] = lambda _: None) -> Artifact:
    """A copy of the artifact with native code made here from its portable programs.

    Args:
        artifact: what to complete; it is not changed.
        output: where the completed artifact goes.
        progress: called with what is being done.

    Raises:
        ArtifactError: the artifact cannot be read.
        TargetError: its device is not on this machine.
        FileError: the output cannot be written.
    """
    source = Artifact.open(artifact)
    needs = source.manifest.requirements
    target = Target.parse(needs.device, isa=needs.isa)
    native = {}
    for index, program in enumerate(source.manifest.programs):
        progress(f"compiling program {index + 1} of {len(source.manifest.programs)}")
        chosen = backend(program.backend)
        executable = chosen.compile_portable(  # type: ignore[attr-defined]
            bytes(source.read(program.portable)), source.program_weights(program), program.signature, target
        )
        native[index] = executable.save()[0]
    versions = {program.backend: backend(program.backend).version() for program in source.manifest.programs}
    requirements = replace(needs, arch=target.arch, features=tuple(sorted(target.required_features)), compilers=versions)
    return rewrite(source, output, native=native, requirements=requirements)
