"""What to try, within which limits, and how long to time it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Candidate:
    """What an entry function returns in the child: something to time.

    Attributes:
        call: one execution, finished when it returns.
        outputs: runs once and gives the arrays to compare with the reference; None where the entry compared by itself.
        facts: whatever should be filed with the times, in JSON types.
    """

    call: Callable[[], object]
    outputs: Callable[[], Sequence[np.ndarray]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a trial may use.

    Attributes:
        seconds: for everything: building, running, timing.
        memory_bytes: resident memory of the child; None: no limit.
        address_bytes: address space of the child; None: no limit. Runtimes that reserve far more than they use (XLA, CUDA)
            cannot live with one.
        start_s: for the child to start and import its entry.
    """

    seconds: float = 10.0
    memory_bytes: int | None = None
    address_bytes: int | None = None
    start_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Timing:
    """How a candidate is timed: one block, after warm-up.

    Attributes:
        warmup_calls: not counted.
        block_s, min_calls: a block lasts until both are met.
        max_s: but no longer than this.
        give_up_ns: a candidate whose first calls all take longer is not timed further; None: every one is.
        first_calls: how many calls that is.
    """

    warmup_calls: int = 1
    block_s: float = 0.02
    min_calls: int = 5
    max_s: float = 1.0
    give_up_ns: int | None = None
    first_calls: int = 3


@dataclass(frozen=True)
class TrialRequest:
    """One candidate.

    Attributes:
        entry: "package.module:function" that takes the payload and returns a Candidate; called in the child.
        payload: its argument, in JSON types.
        reference: an .npz file with arrays "0", "1", ... to compare the outputs with; None: nothing is compared.
        tolerance: largest error, relative to the largest value of each reference array.
        timing: how long.
    """

    entry: str
    payload: Mapping[str, Any]
    reference: Path | None = None
    tolerance: float = 1e-4
    timing: Timing = Timing()
