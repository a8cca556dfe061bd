"""The trend over stored outcomes of ``kopt check``: where a figure changed its level, and by how much.

The gate compares two artifacts and lets small changes through; many of them add up. Over the nights of a month they are steps in
a series, found by PELT and kept when a t test and their size both say so.
Source: Fleming et al., "Hunter: Using Change Point Detection to Hunt for Performance Regressions", 2023, for the two tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from kopt.check.change_points import LEAST_NOISE, change_points
from kopt.check.json_output import SCHEMA
from kopt.check.verdict import tail_of_t
from kopt.errors import FileError, UsageError

MIN_CHANGE = 0.05
MAX_P = 0.001
MIN_REPORTS = 3
"""Reports before and after a change; fewer are an outlier."""

HIGHER_IS_BETTER = {"throughput"}


@dataclass(frozen=True, slots=True)
class Change:
    """A step in a series.

    Attributes:
        index, report: the first report at the new level.
        before, after: the levels, in the series' unit.
        change: relative, 0.05 for 5 % more.
        p_value: how often chance shows as much (two-sided t test).
        worse: whether it is a regression.
    """

    index: int
    report: str
    before: float
    after: float
    change: float
    p_value: float
    worse: bool


@dataclass(frozen=True, slots=True)
class Series:
    """One figure of one model at one batch on one machine, report by report.

    Attributes:
        machine, model, batch, key: whose figure; keys as in budgets.toml.
        reports: names of the reports that have it, in order.
        values: in seconds, rows per second, bytes or shares.
        changes: its steps.
    """

    machine: str
    model: str
    batch: int
    key: str
    reports: tuple[str, ...]
    values: tuple[float, ...]
    changes: tuple[Change, ...]


def report_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those of directories in the order of their names.

    Raises:
        FileError: there is no such file, or a directory holds no report.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside or not all(one.is_file() for one in inside):
            raise FileError("there is no report", where=str(path), next_step="give what `kopt check --json` wrote, or its directory")
        files += inside
    return files


def trend_of(files: Sequence[Path]) -> list[Series]:
    """Every series of the reports, with its changes; reports are taken in the order given.

    Raises:
        FileError: a file cannot be read.
        UsageError: it is no report, or one of another schema.
    """
    points: dict[tuple[str, str, int, str], list[tuple[str, float]]] = {}
    for file in files:
        for key, value in _figures(file).items():
            points.setdefault(key, []).append((file.name, value))
    found = []
    for (machine, model, batch, figure), values in sorted(points.items()):
        names, numbers = tuple(name for name, _ in values), tuple(value for _, value in values)
        changes = find_changes(numbers, names, higher_is_better=figure in HIGHER_IS_BETTER)
        found.append(Series(machine, model, batch, figure, names, numbers, changes))
    return found


def find_changes(values: Sequence[float], reports: Sequence[str], *, higher_is_better: bool = False) -> tuple[Change, ...]:
    """Steps of at least 5 % that chance shows in fewer than one of 1,000 series; the least certain are merged away first."""
    levels = np.log(np.maximum(np.asarray(values, float), 1e-300))
    cuts = [0, *change_points(levels.tolist(), MIN_REPORTS), len(values)]
    while len(cuts) > 2:
        steps = [_step(levels, before, cut, after) for before, cut, after in zip(cuts[:-2], cuts[1:-1], cuts[2:], strict=True)]
        weak = [number for number, (move, p_value) in enumerate(steps) if p_value > MAX_P or abs(math.expm1(move)) < MIN_CHANGE]
        if not weak:
            break
        del cuts[1 + max(weak, key=lambda number: (steps[number][1], -abs(steps[number][0])))]
    changes = []
    for before, cut, after in zip(cuts[:-2], cuts[1:-1], cuts[2:], strict=True):
        move, p_value = _step(levels, before, cut, after)
        old, new = (float(np.exp(levels[start:end].mean())) for start, end in ((before, cut), (cut, after)))
        changes.append(Change(cut, reports[cut], old, new, math.expm1(move), p_value, (move < 0) is higher_is_better))
    return tuple(changes)


def _step(levels: np.ndarray, before: int, cut: int, after: int) -> tuple[float, float]:
    """The move from one level to the next, and its two-sided p value."""
    left, right = levels[before:cut], levels[cut:after]
    degrees = left.size + right.size - 2
    variance = max((left.size * left.var() + right.size * right.var()) / max(1, degrees), LEAST_NOISE**2)
    move = float(right.mean() - left.mean())
    error = math.sqrt(variance * (1 / left.size + 1 / right.size))
    return move, min(1.0, 2 * tail_of_t(abs(move), error, degrees))


def _figures(file: Path) -> dict[tuple[str, str, int, str], float]:
    """What a report holds: measured figures from its samples, whether or not a limit asked for them, the others from its results."""
    content = _read(file)
    found: dict[tuple[str, str, int, str], float] = {}
    try:
        machine = str(content["machine"])
        for result in content["results"]:
            if result["key"] != "max_regression" and result["value"] is not None:
                found[machine, result["model"], result["batch"], result["key"]] = float(result["value"])
        for samples in content["samples"]:
            runs = [run for part in ("first", "confirmation", "alone") for run in samples[part]]
            blocks = [median(pair["candidate_ns"]) for run in runs for pair in run["pairs"] if pair["candidate_ns"]]
            if blocks:
                found[machine, samples["model"], samples["batch"], "p50"] = median(blocks) / 1e9
                found[machine, samples["model"], samples["batch"], "load_time"] = median(run["load_s"] for run in runs)
                found[machine, samples["model"], samples["batch"], "peak_memory"] = float(median(run["peak_bytes"] for run in runs))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"an incomplete report: {error}", where=str(file), next_step="leave that file out") from None
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"cannot read the report: {error.strerror}", where=str(file), next_step="check the path") from None
    except ValueError as error:
        raise UsageError(f"not JSON: {error}", where=str(file), next_step="give files that `kopt check --json` wrote") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UsageError(f"no report of schema {SCHEMA}", where=str(file), next_step="give files that `kopt check --json` wrote")
    return content
