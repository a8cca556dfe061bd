"""What became of a trial: times that count, or the kind of failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from kopt.errors import UsageError
from kopt.measure import Measurement

FailureKind = Literal["crash", "hang", "memory", "wrong", "error"]
FAILURE_KINDS: tuple[FailureKind, ...] = ("crash", "hang", "memory", "wrong", "error")


@dataclass(frozen=True, slots=True)
class Failure:
    """A candidate that gave no time that counts.

    Attributes:
        kind: "crash" its process died, "hang" it took too long, "memory" it used too much or got none, "wrong" its outputs
            differ from the reference, "error" it raised an exception.
        detail: one line for people.
        seconds: the trial took, 0 unknown.
    """

    kind: FailureKind
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate whose outputs are right, with its times.

    Attributes:
        measurement: the calls timed.
        complete: False where it was given up early as far slower than the best known.
        error: largest difference of its outputs, relative to the largest reference value; None where nothing was compared.
        seconds: the whole trial took.
        facts: whatever else the candidate says of itself, in JSON types.
    """

    measurement: Measurement
    complete: bool = True
    error: float | None = None
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def p50_us(self) -> float:
        """Median latency in microseconds."""
        return self.measurement.p50_us


Outcome = Measured | Failure


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """In JSON types."""
    if isinstance(outcome, Failure):
        return {"failure": outcome.kind, "detail": outcome.detail, "seconds": outcome.seconds}
    return {
        "blocks_ns": [list(block) for block in outcome.measurement.blocks_ns],
        "complete": outcome.complete,
        "error": outcome.error,
        "seconds": outcome.seconds,
        "facts": dict(outcome.facts),
    }


def outcome_from_json(content: Mapping[str, Any]) -> Outcome:
    """What ``outcome_to_json`` gave.

    Raises:
        UsageError: fields are missing or of the wrong type.
    """
    try:
        if "failure" in content:
            if content["failure"] not in FAILURE_KINDS:
                raise ValueError(f"unknown kind '{content['failure']}'")  # noqa: TRY301 - one message for all that is wrong
            return Failure(cast("FailureKind", content["failure"]), str(content["detail"]), float(content["seconds"]))
        blocks = tuple(tuple(int(sample) for sample in block) for block in content["blocks_ns"])
        if not any(blocks):
            raise ValueError("no samples")  # noqa: TRY301
        error = None if content["error"] is None else float(content["error"])
        return Measured(Measurement(blocks), bool(content["complete"]), error, float(content["seconds"]), dict(content["facts"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"not the outcome of a trial: {error!r}", next_step="export the records again") from None
