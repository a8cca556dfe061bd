"""kopt: ONNX models in, the fastest artifact that keeps its accuracy out, with the measurements that prove it.

Importing this package loads no compiler; names are looked up when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kopt.errors import (
    AccuracyError,
    ArtifactError,
    CorruptArtifactError,
    DynamicShapeError,
    FileError,
    IncompatibleArtifactError,
    InputError,
    InvalidModelError,
    KoptError,
    MissingDependencyError,
    ModelError,
    PassError,
    RowDependenceError,
    ShapeNotCompiledError,
    TargetError,
    ToolchainError,
    UnsupportedModelError,
    UsageError,
)

if TYPE_CHECKING:
    from kopt.artifact import Artifact
    from kopt.check.api import check
    from kopt.compiler import compile
    from kopt.hardware import Target
    from kopt.pruning import prune
    from kopt.quantization import quantize
    from kopt.recovery.api import recover
    from kopt.session import Session, load

    __version__: str

_LAZY = {
    "Artifact": "kopt.artifact",
    "Session": "kopt.session",
    "Target": "kopt.hardware",
    "check": "kopt.check",
    "compile": "kopt.compiler",
    "load": "kopt.session",
    "prune": "kopt.pruning",
    "quantize": "kopt.quantization",
    "recover": "kopt.recovery.api",
}

__all__ = [
    "AccuracyError",
    "Artifact",
    "ArtifactError",
    "CorruptArtifactError",
    "DynamicShapeError",
    "FileError",
    "IncompatibleArtifactError",
    "InputError",
    "InvalidModelError",
    "KoptError",
    "MissingDependencyError",
    "ModelError",
    "PassError",
    "RowDependenceError",
    "Session",
    "ShapeNotCompiledError",
    "Target",
    "TargetError",
    "ToolchainError",
    "UnsupportedModelError",
    "UsageError",
    "__version__",
    "check",
    "compile",
    "load",
    "prune",
    "quantize",
    "recover",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        globals()[name] = _version()
        return globals()[name]
    if name not in _LAZY:
        raise AttributeError(f"module 'kopt' has no attribute '{name}'")
    module = import_module(_LAZY[name])
    return module if name == "check" else getattr(module, name)  # a package that can be called


def _version() -> str:
    """The installed version. Reading it takes a sixth of what loading a small artifact takes, and few ask for it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("kopt")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0.0.0"


def __dir__() -> list[str]:
    return sorted(__all__)
