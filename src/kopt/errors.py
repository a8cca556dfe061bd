"""Every error kopt raises, and the exit code of each.

::

    KoptError                                   exit code
    ├── UsageError                              2    options, configuration, input names, dtypes and shapes
    │   ├── InputError                               arrays handed to a session do not fit its signature
    │   └── ShapeNotCompiledError                    an exact session was asked for a shape it does not hold
    ├── AccuracyError                           4    outputs differ from the reference beyond the tolerance
    ├── ArtifactError                           5    the artifact cannot be used
    │   ├── CorruptArtifactError                     missing, truncated, altered or unlisted files
    │   └── IncompatibleArtifactError                another format, jaxlib, ISA or device is required
    ├── ModelError                              6    the user's model
    │   ├── InvalidModelError                        not valid ONNX, contradicting types, hostile structure
    │   ├── UnsupportedModelError                    nodes no backend can compile; all of them are listed
    │   ├── RowDependenceError                       the rows of a batch cannot be proven independent
    │   └── DynamicShapeError                        a dimension or shape input must be bound first
    ├── TargetError                             7    unknown or absent hardware
    ├── MissingDependencyError                  7    names the extra to install
    ├── PassError                               70   a pass broke the graph (a defect of kopt)
    ├── ToolchainError                          70   a compiler failed: its diagnostics are attached
    └── FileError                               74   reading or writing failed

Exit code 1 (a budget failed), 3 (inconclusive) and 130 (interrupted) are results, not errors.

A message has three parts: what (names and values), where (the user's node or file), next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

EXIT_OK = 0
EXIT_BUDGET_FAILED = 1
EXIT_INCONCLUSIVE = 3
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Location:
    """Where a node came from in the user's model; several node names after a fusion."""

    model: str = ""
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = ", ".join(f"'{name}'" for name in self.nodes[:4])
        if len(self.nodes) > 4:
            names += f" and {len(self.nodes) - 4} more"
        return ": ".join(part for part in (self.model, names) if part)

    def merge(self, *others: Location) -> Location:
        """Union of the node names, in order, under the first model name that is known."""
        locations = (self, *others)
        nodes = dict.fromkeys(name for location in locations for name in location.nodes)
        return Location(next((loc.model for loc in locations if loc.model), ""), tuple(nodes))


class KoptError(Exception):
    """Base of all errors of kopt: what happened, where, and what to do next."""

    exit_code: ClassVar[int] = 70

    def __init__(self, what: str, *, where: Location | str = "", next_step: str = "") -> None:
        self.what = what
        self.where = where
        self.next_step = next_step
        lines = [what]
        if str(where):
            lines.append(f"  at {where}")
        if next_step:
            lines.append(f"  {next_step}")
        super().__init__("\n".join(lines))


class UsageError(KoptError):
    """An option, configuration value or call that cannot be honoured."""

    exit_code = 2


class InputError(UsageError):
    """An input's name, dtype or shape does not fit the signature."""


class ShapeNotCompiledError(UsageError):
    """An exact session was asked for a shape that its artifact does not hold."""


class AccuracyError(KoptError):
    """Outputs differ from the reference beyond the stated tolerance."""

    exit_code = 4


class ArtifactError(KoptError):
    """An artifact cannot be used."""

    exit_code = 5


class CorruptArtifactError(ArtifactError):
    """A file of the artifact is missing, truncated, altered or not listed in its manifest."""


class IncompatibleArtifactError(ArtifactError):
    """The artifact needs another format version, library version, instruction set or device."""


class ModelError(KoptError):
    """The user's model cannot be compiled."""

    exit_code = 6


class InvalidModelError(ModelError):
    """The model is not valid ONNX."""


class UnsupportedModelError(ModelError):
    """Nodes that no backend can compile; ``nodes`` holds (op, location) of every one."""

    def __init__(self, nodes: Sequence[tuple[str, Location]], *, backend: str, reasons: Sequence[str] = ()) -> None:
        self.nodes = tuple(nodes)
        ops = sorted({op for op, _ in nodes})
        lines = [f"backend '{backend}' cannot compile {len(nodes)} node{'s' if len(nodes) != 1 else ''} ({', '.join(ops)})"]
        for index, (op, location) in enumerate(nodes):
            reason = f": {reasons[index]}" if index < len(reasons) and reasons[index] else ""
            lines.append(f"  {op} at {location}{reason}")
        super().__init__("\n".join(lines), next_step="`kopt inspect MODEL` lists what each backend supports")


class RowDependenceError(ModelError):
    """The rows of a batch cannot be proven independent of one another, so the batch cannot be changed."""


class DynamicShapeError(ModelError):
    """A dimension or a shape-deciding input must be bound before compiling."""


class TargetError(KoptError):
    """Unknown or absent hardware."""

    exit_code = 7


class MissingDependencyError(KoptError):
    """An optional package is not installed."""

    exit_code = 7


class PassError(KoptError):
    """A pass produced an invalid graph."""


class ToolchainError(KoptError):
    """A compiler failed."""


class FileError(KoptError):
    """Reading or writing a file failed."""

    exit_code = 74
