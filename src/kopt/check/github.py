"""The outcome for GitHub Actions: a step summary in Markdown, and annotations at the budgets' lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kopt.check.describe import allowed, evidence, found, sentence, subject
from kopt.check.judge import Result
from kopt.check.verdict import Verdict
from kopt.errors import FileError

MAX_ANNOTATIONS = 10
"""GitHub shows no more of one kind per step."""

MAX_SUMMARY_BYTES = 900_000
"""GitHub refuses summaries over 1 MiB."""

_MARKS = {Verdict.PASS: "✅ pass", Verdict.FAIL: "❌ fail", Verdict.INCONCLUSIVE: "⚠️ inconclusive"}
_COLUMNS = ("verdict", "model", "limit", "found", "allowed", "evidence", "note")


def to_markdown(results: Sequence[Result]) -> str:
    """A table, failures first, cut before GitHub would refuse it."""
    worst_first = sorted(results, key=lambda result: [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS].index(result.verdict))
    lines = [f"### kopt check: {_MARKS[Verdict.worst([result.verdict for result in results])]}", "", _row(_COLUMNS)]
    lines.append(_row(["---"] * len(_COLUMNS)))
    used = sum(len(line.encode()) + 1 for line in lines)
    for count, result in enumerate(worst_first):
        cells = (subject(result), result.key, found(result), allowed(result), evidence(result), result.note)
        line = _row([_MARKS[result.verdict], *map(_escaped, cells)])
        used += len(line.encode()) + 1
        if used > MAX_SUMMARY_BYTES:
            lines += ["", f"{len(worst_first) - count} more are left out"]
            break
        lines.append(line)
    return "\n".join(lines) + "\n"


def append_summary(path: Path, results: Sequence[Result]) -> None:
    """Add the table to the file that $GITHUB_STEP_SUMMARY names.

    Raises:
        FileError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(to_markdown(results))
    except OSError as error:
        raise FileError(
            f"cannot write the step summary: {error.strerror}", where=str(path), next_step="check $GITHUB_STEP_SUMMARY"
        ) from None


def workflow_commands(results: Sequence[Result], budgets: Path | None) -> list[str]:
    """Annotations, as lines to print: errors for failures, warnings for what is inconclusive, as many as GitHub shows."""
    lines = []
    for verdict, kind in ((Verdict.FAIL, "error"), (Verdict.INCONCLUSIVE, "warning")):
        for result in [one for one in results if one.verdict is verdict][:MAX_ANNOTATIONS]:
            place = f"file={_property(str(budgets))},line={result.line}," if budgets is not None and result.line else ""
            lines.append(f"::{kind} {place}title=kopt check::{_message(sentence(result))}")
    return lines


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ").replace("\r", " ")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
