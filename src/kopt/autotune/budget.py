"""Wall-clock budgets: how they are spelled, and how one is split over workloads."""

from __future__ import annotations

import re

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
