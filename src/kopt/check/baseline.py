"""Recording baselines: a copy of the judged artifact, in place whole or not at all."""

from __future__ import annotations

from pathlib import Path

from kopt.artifact import Artifact, is_artifact
from kopt.artifact.staging import Staging


def record(baseline: Path, artifact: Path) -> Path:
    """Copy an artifact to where the next check finds its baseline; returns the copy's path.

    Args:
        baseline: an artifact, which is replaced, or a directory (made when missing) that gets a copy of the same file name.
        artifact: the artifact to copy, checked while it is read.

    Raises:
        UsageError: something that is no artifact is in the way.
        ArtifactError, FileError: it cannot be read, or the copy not written.
    """
    source = Artifact.open(artifact)
    target = baseline if is_artifact(baseline) else baseline / artifact.resolve().name
    if target.resolve() == artifact.resolve():
        return target
    with Staging(target) as staging:
        for path, entry in source.manifest.files.items():
            staging.take(path, source.path / path, entry)
        staging.commit(source.manifest)
    return target
