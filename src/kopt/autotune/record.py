"""One finished trial as it is filed, and the surroundings in which its time means something."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kopt.errors import UsageError
from kopt.measure import Measurement
from kopt.space import Choice, Config, Workload, config_key
from kopt.trial import Failure, Measured, Outcome, outcome_from_json, outcome_to_json

SCHEMA = 1
MAX_SAMPLES = 200
"""Samples kept of one trial; of more, every second, third, ... is kept."""


@dataclass(frozen=True)
class Surroundings:
    """What a time depends on besides the candidate.

    Attributes:
        hardware: fingerprint of the machine.
        versions: of the compilers, by name, and whatever else times depend on, such as threads.
    """

    hardware: str
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Canonical text."""
        return json.dumps({"hardware": self.hardware, "versions": dict(sorted(self.versions.items()))}, separators=(",", ":"))


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        workload: what was to be done.
        implementation: who did it, such as "tvm-gemm-packed"; it names the search space that ``config`` is a point of.
        config: the point.
        outcome: times, or the failure.
        surroundings: where.
        run: which search it belongs to.
        created: seconds since 1970.
        foreign: it came from another database: its config is worth a try here, its time counts for nothing until re-measured.
    """

    workload: Workload
    implementation: str
    config: Config
    outcome: Outcome
    surroundings: Surroundings
    run: str = ""
    created: float = field(default_factory=time.time)
    foreign: bool = False

    @property
    def p50_us(self) -> float | None:
        """Median latency; None of failures and of candidates given up early, whose times are rough."""
        return self.outcome.p50_us if isinstance(self.outcome, Measured) and self.outcome.complete else None

    @property
    def kind(self) -> str:
        """One of "measured", "slow" (given up early), and the kinds of failure."""
        if isinstance(self.outcome, Failure):
            return self.outcome.kind
        return "measured" if self.outcome.complete else "slow"

    def to_json(self) -> dict[str, Any]:
        """In JSON types, without ``foreign``: that is for the database that holds it to say."""
        return {
            "schema": SCHEMA,
            "workload": self.workload.to_json(),
            "implementation": self.implementation,
            "config": dict(sorted(self.config.items())),
            "outcome": outcome_to_json(_thinned(self.outcome)),
            "hardware": self.surroundings.hardware,
            "versions": dict(sorted(self.surroundings.versions.items())),
            "run": self.run,
            "created": self.created,
        }

    @classmethod
    def from_json(cls, content: Any, *, foreign: bool = False) -> TrialRecord:
        """What ``to_json`` gave.

        Raises:
            UsageError: another schema, fields that are missing or of the wrong type.
        """
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise UsageError(
                f"not a record of schema {SCHEMA}", next_step="export the records with the version of kopt that wrote them, then update it"
            )
        try:
            config: dict[str, Choice] = dict(content["config"])
            if not all(isinstance(choice, int | float | str | bool) for choice in config.values()):
                raise TypeError("a choice is not a number, text or truth value")  # noqa: TRY301 - one message for all that is wrong
            return cls(
                Workload.from_json(content["workload"]),
                str(content["implementation"]),
                config,
                outcome_from_json(content["outcome"]),
                Surroundings(str(content["hardware"]), {str(k): str(v) for k, v in content["versions"].items()}),
                str(content["run"]),
                float(content["created"]),
                foreign,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"not a trial's record: {error!r}", next_step="export the records again") from None

    @property
    def digest(self) -> str:
        """Of its content; the same record has the same digest in every database."""
        return hashlib.sha256(canonical(self.to_json()).encode()).hexdigest()

    @property
    def config_key(self) -> str:
        """Canonical text of the config."""
        return config_key(self.config)


def canonical(content: Any) -> str:
    """JSON with one spelling per content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _thinned(outcome: Outcome) -> Outcome:
    """At most MAX_SAMPLES samples, evenly spaced in time; the blocks stay."""
    if isinstance(outcome, Failure) or outcome.measurement.num_samples <= MAX_SAMPLES:
        return outcome
    step = -(-outcome.measurement.num_samples // MAX_SAMPLES)
    blocks = tuple(block[::step] for block in outcome.measurement.blocks_ns)
    return Measured(Measurement(blocks), outcome.complete, outcome.error, outcome.seconds, outcome.facts)
