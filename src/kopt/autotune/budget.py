"""Wall-clock budgets: how they are spelled, and how one is split over workloads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kopt.errors import UsageError

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str | float) -> float:
    """Seconds of "90s", "10m", "1h30m" or "30d"; a plain number is seconds.

    Raises:
        UsageError: anything else, or nothing at all.
    """
    spelled = str(text).strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", spelled)
    if parts and "".join(number + unit for number, unit in parts) == spelled:
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    elif re.fullmatch(r"\d+(\.\d+)?", spelled):
        seconds = float(spelled)
    else:
        seconds = 0.0
    if seconds <= 0:
        raise UsageError(f"'{text}' is not a duration", next_step="write for instance 90s, 10m or 1h30m")
    return seconds


@dataclass
class Arm:
    """What the budget's split knows of one search.

    Attributes:
        workload: searches with the same workload compete: only the fastest of them counts.
        calls: how often the workload runs in one call of the model.
        best_us: the fastest so far; None before anything was measured.
        floor_us: no implementation can be faster (operations over the machine's peak); 0 unknown.
        rounds: how often time was given to it.
        seconds: how much.
        gains: by which share its best time fell in each round after the first.
        is_finished: nothing is left to try.
    """

    workload: str
    calls: int = 1
    best_us: float | None = None
    floor_us: float = 0.0
    rounds: int = 0
    seconds: float = 0.0
    gains: list[float] = field(default_factory=list)
    is_finished: bool = False

    def took(self, seconds: float, best_us: float | None) -> None:
        """Note a round."""
        if self.best_us is not None and best_us is not None:
            self.gains.append(max(0.0, 1.0 - best_us / self.best_us))
        self.best_us = best_us
        self.rounds += 1
        self.seconds += seconds

    @property
    def expected_gain(self) -> float:
        """By which share another round will probably lower its time.

        What the last rounds gave, fading, and what may be left: the way to the floor (30 % where that is unknown), the less likely to be
        found the longer it was searched for.
        """
        recent = 0.0
        for gain in self.gains[-4:]:
            recent = 0.5 * recent + 0.5 * gain
        left = 0.3
        if self.floor_us > 0 and self.best_us:
            left = max(0.0, 1.0 - self.floor_us / self.best_us)
        hope: float = left / (1.0 + self.rounds) ** 1.5
        return max(recent, hope)


def choose(arms: Sequence[Arm]) -> int | None:
    """The search to give the next round to: the one that will probably save the model most time per second of search.

    None when all are finished.

    Every workload is started once, the one with most to do (calls, times the floor where that is known) first. Of two searches of
    one workload the slower can gain only by what it undercuts the faster.
    """
    open_arms = [index for index, arm in enumerate(arms) if not arm.is_finished]
    if not open_arms:
        return None
    fresh = [index for index in open_arms if arms[index].rounds == 0]
    if fresh:
        return max(fresh, key=lambda index: (arms[index].calls * (arms[index].floor_us or 1.0), -index))
    best: dict[str, float] = {}
    for arm in arms:
        if arm.best_us is not None:
            best[arm.workload] = min(arm.best_us, best.get(arm.workload, arm.best_us))
    return max(open_arms, key=lambda index: (_worth(arms[index], best), -index))


def _worth(arm: Arm, best: Mapping[str, float]) -> float:
    """Microseconds of the model's time that a second of search will probably save."""
    now = best.get(arm.workload)
    if now is None:  # everything failed so far: worth a little, or it would never be tried again
        return 1e-6 / arm.rounds
    own = arm.best_us if arm.best_us is not None else 2.0 * now
    expected = now - min(now, own * (1.0 - arm.expected_gain))
    hope = 0.02 * now * arm.expected_gain  # a slower one is not written off at once
    return arm.calls * max(expected, hope) / max(arm.seconds / arm.rounds, 1e-9)
