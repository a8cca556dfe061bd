"""Results in words, shared by every output."""

from __future__ import annotations

import math

from kopt.check.budget import SHOWN_AS
from kopt.check.judge import Result
from kopt.report.text import duration, size


def quantity(key: str, value: float, *, signed: bool = False) -> str:
    """A value of a limit's key with its unit; "-" where there is none."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "unbounded"
    unit = SHOWN_AS.get(key)
    if unit == "s":
        return duration(value * 1e6)
    if unit == "B":
        return size(value)
    if unit == "/s":
        return f"{value:.4g}/s"
    if key == "max_regression":
        return f"{value:+.1%}" if signed else f"{value * 100:.3g} %"
    return f"{value:.2g}"


def found(result: Result) -> str:
    """The value with its interval, such as ``+6.1% [+4.8%, +7.5%]``."""
    value = quantity(result.key, result.value, signed=True)
    if math.isnan(result.value) or result.lower == result.upper or math.isnan(result.lower):
        return value
    return f"{value} [{quantity(result.key, result.lower, signed=True)}, {quantity(result.key, result.upper, signed=True)}]"


def allowed(result: Result) -> str:
    """The limit with its direction."""
    return f"{'>=' if result.key == 'throughput' else '<='} {quantity(result.key, result.limit)}"


def evidence(result: Result) -> str:
    """How much was measured."""
    parts = []
    if result.num_pairs:
        parts.append(f"{result.num_pairs} {'pairs' if result.key == 'max_regression' else 'blocks'}")
    if result.num_samples:
        parts.append(f"{result.num_samples} {'processes' if result.key in ('load_time', 'peak_memory') else 'calls'}")
    return ", ".join(parts)


def subject(result: Result) -> str:
    """Model and batch."""
    return f"{result.model}, batch {result.batch}" if result.batch else result.model


def sentence(result: Result) -> str:
    """Everything about a result on one line."""
    parts = [f"{subject(result)}: {result.key} {found(result)} (limit {allowed(result)})", evidence(result), result.note]
    return "; ".join(part for part in parts if part)
