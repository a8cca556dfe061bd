"""budgets.toml: what a model may cost, by model, batch and machine class.

::

    [[budget]]
    model = "resnet50"          # optional selectors: the artifact's model name, batch, processor name
    batch = 8
    p50 = "20 ms"
    p99 = "35 ms"
    throughput = "300/s"        # at least
    peak_memory = "1.2 GiB"
    load_time = "1 s"
    artifact_size = "250 MB"
    accuracy_drop = 1e-4        # error relative to the largest reference output
    max_regression = "5 %"      # against the baseline artifact, measured beside it
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kopt.errors import FileError, UsageError

_TIME = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_SIZE = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ%/]*)\s*")


def _units(units: Mapping[str, float], example: str) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
        if found is None or found.group(2) not in units:
            raise ValueError(f'a number with one of {", ".join(units)}, such as "{example}"')
        return float(found.group(1)) * units[found.group(2)]

    return parse


def _share(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None or found.group(2) != "%":
        raise ValueError('a share, such as "5 %" or 0.05')
    return float(found.group(1)) / 100


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text; * matches anything")
    return value


def _batch(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("a number of rows")
    return value


SELECTORS: dict[str, Callable[[Any], Any]] = {"model": _text, "batch": _batch, "machine": _text}
LIMITS: dict[str, Callable[[Any], float]] = {
    "p50": _units(_TIME, "12 ms"),
    "p90": _units(_TIME, "12 ms"),
    "p99": _units(_TIME, "12 ms"),
    "throughput": _units({"/s": 1.0}, "900/s"),
    "peak_memory": _units(_SIZE, "1.2 GiB"),
    "load_time": _units(_TIME, "1 s"),
    "artifact_size": _units(_SIZE, "250 MB"),
    "accuracy_drop": _share,
    "max_regression": _share,
}
"""Key -> parser; limits are in seconds, rows per second, bytes and shares."""

SHOWN_AS = {"p50": "s", "p90": "s", "p99": "s", "load_time": "s", "peak_memory": "B", "artifact_size": "B", "throughput": "/s"}


@dataclass(frozen=True)
class Budget:
    """One [[budget]] table.

    Attributes:
        line: where its table begins in the file.
        model, batch, machine: selectors; None selects everything. Names may hold * and ?.
        limits: by key, in SI units.
    """

    line: int
    model: str | None = None
    batch: int | None = None
    machine: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)

    def selects(self, model: str, batch: int) -> bool:
        """Whether the budget is for this model at this batch; the machine is judged apart."""
        return (self.model is None or fnmatchcase(model, self.model)) and self.batch in (None, batch)

    def fits_machine(self, name: str) -> bool:
        """Whether absolute limits hold on a machine with this processor."""
        return self.machine is None or fnmatchcase(name, self.machine)


def read_budgets(path: Path) -> tuple[Budget, ...]:
    """The budgets of a file.

    Raises:
        FileError: missing or unreadable.
        UsageError: not TOML, an unknown key, or a value that does not fit; the message names line, key and what is allowed.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise FileError(f"cannot read the budgets: {reason}", where=str(path), next_step="correct --budget") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not a TOML file: {error}", where=str(path), next_step="correct that line") from None
    lines = text.splitlines()
    unknown = [key for key in content if key != "budget"]
    if unknown or not isinstance(content.get("budget"), list) or not content["budget"]:
        line = _line_of(lines, unknown[0], 0) if unknown else 1
        what = f"unknown key '{unknown[0]}'" if unknown else "there is no [[budget]] table"
        raise UsageError(what, where=f"{path}:{line}", next_step="write one or more [[budget]] tables")
    starts = [number for number, line in enumerate(lines, 1) if re.match(r"\s*\[\[\s*budget\s*\]\]", line)]
    starts += [1] * (len(content["budget"]) - len(starts))  # tables written inline have no line of their own
    return tuple(_parse(table, start, lines, path) for table, start in zip(content["budget"], starts, strict=False))


def budget_of(limits: Mapping[str, object], batch: int | None = None) -> Budget:
    """A budget of limits written as in a file, such as ``{"p50": "5 ms", "max_regression": "5 %"}``.

    Raises:
        UsageError: no limit, an unknown key, or a value that does not fit.
    """
    table = {**limits, **({} if batch is None else {"batch": batch})}
    return _parse(table, 0, [], None)


def _parse(table: Any, start: int, lines: list[str], path: Path | None) -> Budget:
    """A table of a file, or with no path limits given by a caller."""
    if not isinstance(table, dict):
        raise UsageError("a budget is not a table", where=f"{path}:{start}", next_step="write [[budget]] and its keys below")
    found: dict[str, Any] = {}
    for key, value in table.items():
        parse = SELECTORS.get(key) or LIMITS.get(key)
        where = f"{path}:{_line_of(lines, key, start)}" if path is not None else ""
        if parse is None:
            allowed = ", ".join((*SELECTORS, *LIMITS))
            raise UsageError(f"unknown key '{key}'", where=where, next_step=f"choose one of: {allowed}")
        try:
            found[key] = parse(value)
        except ValueError as error:
            raise UsageError(f"{key} = {value!r} is not {error}", where=where, next_step="correct the value") from None
    limits = {key: value for key, value in found.items() if key in LIMITS}
    if not limits:
        where = f"{path}:{start}" if path is not None else ""
        raise UsageError("a budget without a limit", where=where, next_step=f"give one of: {', '.join(LIMITS)}")
    return Budget(start, found.get("model"), found.get("batch"), found.get("machine"), limits)


def _line_of(lines: list[str], key: str, start: int) -> int:
    """The line a key is written on, at or after ``start``."""
    pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=\]]|\s*\[+\s*{re.escape(key)}")
    return next((number for number, line in enumerate(lines, 1) if number >= start and pattern.match(line)), max(start, 1))
