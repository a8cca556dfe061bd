"""Opening an artifact: everything is checked before anything is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kopt.artifact import tensors
from kopt.artifact.blobs import map_file, open_verified
from kopt.artifact.manifest import MANIFEST, MANIFEST_DIGEST, MAX_MANIFEST_BYTES, MODEL, REPORT, SELF_TEST, WEIGHTS, Manifest, StoredProgram
from kopt.errors import CorruptArtifactError, FileError


class Artifact:
    """A compiled model on disk, checked and mapped. Nothing of it is changed by reading.

    Attributes:
        path: its directory.
        manifest: what it holds and needs.
    """

    def __init__(self, path: Path, manifest: Manifest, files: Mapping[str, memoryview]) -> None:
        self.path = path
        self.manifest = manifest
        self._files = files

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Check every file of the artifact at ``path``.

        Raises:
            FileError: nothing is there, or it cannot be read.
            CorruptArtifactError: no artifact, or a file is missing, altered, a link or not listed.
            IncompatibleArtifactError: another format version.
        """
        root = Path(path)
        manifest = read_manifest(root)
        return cls(root, manifest, open_verified(root, manifest.files))

    @classmethod
    def just_written(cls, path: Path) -> Artifact:
        """The artifact that this process has written this moment: mapped, not read again, so that its pages take no memory.

        Raises:
            FileError: it cannot be read.
        """
        manifest = read_manifest(path)
        return cls(path, manifest, {name: map_file(path / name, entry.size) for name, entry in manifest.files.items()})

    def read(self, path: str) -> memoryview:
        """The checked bytes of one file, mapped.

        Raises:
            CorruptArtifactError: the artifact has no such file.
        """
        if path not in self._files:
            raise CorruptArtifactError(f"the artifact has no '{path}'", where=str(self.path), next_step="compile the model again")
        return self._files[path]

    @cached_property
    def weights(self) -> Mapping[str, np.ndarray]:
        """All stored tensors, as read-only views of the mapped file."""
        return tensors.read(self.read(WEIGHTS), str(self.path / WEIGHTS)) if WEIGHTS in self._files else {}

    def program_weights(self, program: StoredProgram) -> dict[str, np.ndarray]:
        """The weights of one program in argument order.

        Raises:
            CorruptArtifactError: the manifest names a tensor that is not there.
        """
        missing = [tensor for _, tensor in program.weights if tensor not in self.weights]
        if missing:
            raise CorruptArtifactError(f"weight '{missing[0]}' is not stored", where=str(self.path), next_step="compile the model again")
        return {name: self.weights[tensor] for name, tensor in program.weights}

    @cached_property
    def self_test(self) -> Mapping[str, np.ndarray]:
        """Inputs and reference outputs by "<program>/input/<name>" and "<program>/output/<name>"; may be empty."""
        return tensors.read(self.read(SELF_TEST), str(self.path / SELF_TEST)) if SELF_TEST in self._files else {}

    @property
    def report(self) -> dict[str, Any]:
        """The stored report, empty when there is none.

        Raises:
            CorruptArtifactError: it is no JSON object.
        """
        if REPORT not in self._files:
            return {}
        try:
            return dict(json.loads(bytes(self._files[REPORT])))
        except (ValueError, TypeError) as error:
            raise CorruptArtifactError("the report is not valid JSON", where=str(self.path / REPORT)) from error

    @property
    def model_path(self) -> Path:
        """The ONNX model inside the artifact; its weights lie in the file beside it."""
        self.read(MODEL)
        return self.path / MODEL

    def __repr__(self) -> str:
        return f"Artifact('{self.path}', {len(self.manifest.programs)} programs)"


def read_manifest(root: Path) -> Manifest:
    """The manifest of the artifact at ``root``, checked against its digest; no other file is read.

    Raises:
        FileError: nothing is there.
        CorruptArtifactError: no artifact, or an altered manifest.
        IncompatibleArtifactError: another format version.
    """
    if not root.exists():
        raise FileError(f"'{root}' does not exist", next_step="give the path of an artifact that `kopt compile` wrote")
    if not is_artifact(root):
        raise CorruptArtifactError(
            f"'{root}' is not a kopt artifact", next_step="give the path of a directory that `kopt compile` wrote (NAME.kopt)"
        )
    raw = bytes(map_file(root / MANIFEST, MAX_MANIFEST_BYTES))
    stated = bytes(map_file(root / MANIFEST_DIGEST, 1024))
    if stated != digest_line(raw):
        what = "the manifest does not match its digest"
        raise CorruptArtifactError(what, where=str(root / MANIFEST), next_step="restore the artifact from where it came, or compile again")
    return Manifest.from_bytes(raw, str(root / MANIFEST))


def is_artifact(path: Path) -> bool:
    """Whether ``path`` looks like an artifact: a directory with a manifest and its digest."""
    return path.is_dir() and (path / MANIFEST).exists() and (path / MANIFEST_DIGEST).exists()


def digest_line(manifest: bytes) -> bytes:
    """The content of manifest.sha256, as ``sha256sum`` writes and checks it."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()
