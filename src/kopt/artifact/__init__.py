"""The artifact: a directory that holds a compiled model, every byte of it checked before use."""

from kopt.artifact.manifest import Manifest, Requirements, Rows, StoredProgram
from kopt.artifact.read import Artifact, is_artifact, read_manifest

__all__ = ["Artifact", "Manifest", "Requirements", "Rows", "StoredProgram", "is_artifact", "read_manifest"]
