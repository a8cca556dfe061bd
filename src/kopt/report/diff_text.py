"""The differences of two reports as text for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kopt.report.diff_types import Diff, PassDelta, Reason
from kopt.report.text import duration, size

_Section = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
MOST_PARTS = 8
"""Operators and nodes shown per batch and level; the JSON has all."""


def sections(found: Diff) -> list[_Section]:
    """Title, columns and rows of every table that has rows."""
    tables: list[_Section] = [
        ("latency (p50)", ("batch", "before", "after", "ratio", "ONNX Runtime's ratio", ""), list(_timings(found))),
        ("time by operator and node", ("batch", "", "name", "before", "after", "change"), list(_parts(found))),
        ("passes", ("pass", "before", "after", "effect"), [_pass(one) for one in found.passes]),
        (
            "differences",
            ("", "fact", "before", "after"),
            [(one.section, one.key, value(one.key, one.before), value(one.key, one.after)) for one in found.changes],
        ),
    ]
    return [table for table in tables if table[2]]


def _timings(found: Diff) -> Iterator[tuple[str, ...]]:
    for one in found.timings:
        interval = "" if one.lower is None else f" [{one.lower:.2f}, {one.upper:.2f}]"
        verdict = ("slower" if one.ratio > 1 else "faster") if one.is_different else "no difference beyond noise"
        peer = "-" if one.peer_ratio is None else f"{one.peer_ratio:.2f}"
        yield str(one.batch), duration(one.before_us), duration(one.after_us), f"{one.ratio:.2f}{interval}", peer, verdict


def _parts(found: Diff) -> Iterator[tuple[str, ...]]:
    for batch in dict.fromkeys(one.batch for one in found.parts):
        for level in ("operator", "node"):
            shown = [one for one in found.parts if one.batch == batch and one.level == level][:MOST_PARTS]
            for one in shown:
                change = "unknown" if one.delta_us is None else f"{'-' if one.delta_us < 0 else '+'}{duration(abs(one.delta_us))}"
                times = ("not listed" if time is None else duration(time) for time in (one.before_us, one.after_us))
                yield str(batch), level, one.name, *times, change


def _pass(one: PassDelta) -> tuple[str, ...]:
    effects = [f"{rule} {before} -> {after}" for rule, (before, after) in one.rewrites.items()]
    effects += [f"{rule} declined {before} -> {after}" for rule, (before, after) in one.skips.items()]
    return one.name, one.before or "did not run", one.after or "did not run", ", ".join(effects)


def value(key: str, content: Any) -> str:
    """A fact as text, with its unit."""
    if content is None:
        return "-"
    if key.endswith("_bytes"):
        return size(content)
    if key.endswith("_s"):
        return duration(content * 1e6)
    if isinstance(content, float):
        return f"{content:.4g}"
    if isinstance(content, dict):
        return ", ".join(f"{name} {one}" for name, one in content.items()) or "none"
    return ", ".join(map(str, content)) or "none" if isinstance(content, list | tuple) else str(content)


def closing(found: Diff) -> list[str]:
    """The reasons, numbered; or that there is none."""
    if not found.reasons:
        return ["nothing differs that could change the latency"]
    steady = bool(found.timings) and not any(one.is_different for one in found.timings)
    lines = ["the latency shows no difference beyond noise; what differs all the same:"] if steady else []
    return lines + [f"{number}. {reason.text}{_share(reason)}" for number, reason in enumerate(found.reasons, 1)]


def _share(reason: Reason) -> str:
    return "" if reason.share is None or reason.kind == "place" else f" (enough for {min(reason.share, 9.99):.0%} of the change)"


def markdown(found: Diff) -> str:
    """Everything as Markdown."""
    lines = [f"{found.before} -> {found.after}", ""]
    for title, columns, rows in sections(found):
        lines += [f"**{title}**", "", _line(columns), _line(["---"] * len(columns)), *map(_line, rows), ""]
    return "\n".join([*lines, "**likely reasons**", "", *closing(found), ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def show(found: Diff, console: Console) -> None:
    """Print everything."""
    console.print(f"{found.before} -> {found.after}", highlight=False, markup=False)
    for title, columns, rows in sections(found):
        console.print(f"\n{title}", highlight=False)
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    console.print("\nlikely reasons, most telling first", highlight=False)
    for line in closing(found):
        console.print(line, highlight=False, markup=False)
