"""What a comparison of two reports finds, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two things compared.

    Attributes:
        name: what the user called it, such as a path.
        report: the content of report.json.
        manifest: the content of manifest.json, None where only a report is at hand.
    """

    name: str
    report: Mapping[str, Any]
    manifest: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A fact that differs; None stands for absent.

    Attributes:
        section: "model", "program", "target", "versions", "machine", or "batch 8".
        key: the fact's name as in report.json.
    """

    section: str
    key: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Timing:
    """Median latency of one batch on both sides.

    Attributes:
        ratio: after over before; ``lower`` and ``upper`` are its 95 % interval from the noise within each run, None without samples.
        peer_ratio: the same ratio of ONNX Runtime, measured beside both, None where it was not or in another version.
    """

    batch: int
    before_us: float
    after_us: float
    ratio: float
    lower: float | None
    upper: float | None
    peer_ratio: float | None

    @property
    def is_different(self) -> bool:
        """Whether the interval leaves out 1; without an interval, whether the ratio is off by a twentieth."""
        if self.lower is None or self.upper is None:
            return not 1 / 1.05 < self.ratio < 1.05
        return not self.lower <= 1 <= self.upper


@dataclass(frozen=True, slots=True)
class Part:
    """Time of one operator or node in one batch: its share of the median latency. None: not among the nodes the report lists.

    Attributes:
        level: "operator" or "node".
    """

    batch: int
    level: str
    name: str
    before_us: float | None
    after_us: float | None

    @property
    def delta_us(self) -> float | None:
        """How much longer it takes, None where a side is unknown."""
        return None if self.before_us is None or self.after_us is None else self.after_us - self.before_us


@dataclass(frozen=True, slots=True)
class PassDelta:
    """A pass that ran on one side only (the other spelling is None), with other options, or to another effect.

    Attributes:
        rewrites: rule -> how often it applied before and after, where that differs.
        skips: rule -> how often it declined before and after, where that differs (reports keep 20 a pass).
    """

    name: str
    before: str | None
    after: str | None
    rewrites: Mapping[str, tuple[int, int]]
    skips: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the latency may have changed.

    Attributes:
        kind: "machine", "threads", "peer", "precision", "work", "passes", ... for programs that sort them.
        score: by which reasons are ordered, 0 to 1.
        share: how much of the change it accounts for, where that can be estimated.
    """

    kind: str
    text: str
    score: float
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Diff:
    """Everything that ``kopt diff`` shows; ``same_program`` is None where a manifest is missing."""

    before: str
    after: str
    same_program: bool | None
    timings: tuple[Timing, ...]
    parts: tuple[Part, ...]
    passes: tuple[PassDelta, ...]
    changes: tuple[Change, ...]
    reasons: tuple[Reason, ...]

    def to_json(self) -> dict[str, Any]:
        """In JSON types; documented in docs/diff.md."""
        return {"schema": SCHEMA, **asdict(self)}
