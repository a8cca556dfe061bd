"""`kopt db`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from kopt.cli.common import check_folder, print_json, stdout, write_text
from kopt.errors import FileError, UsageError

if TYPE_CHECKING:
    from kopt.autotune.database import TrialDatabase
    from kopt.autotune.record import TrialRecord

ACTIONS = ("show", "export", "import", "merge", "prune", "repair")
_NEEDS_FILE = {"import": "the file of records", "merge": "the other database"}


def run(
    action: str = typer.Argument(..., help="show, export, import, merge, prune or repair."),
    file: Path | None = typer.Argument(None, help="What is imported or merged."),
    db: Path | None = typer.Option(None, help="The database; by default the user's own."),
    output: Path | None = typer.Option(None, "-o", "--output", help="Where an export goes; by default standard output."),
    workload: str | None = typer.Option(None, help="Show the trials of workloads whose description holds this text."),
    keep: int | None = typer.Option(None, help="Prune: of each workload keep so many of the fastest, and no failures."),
    older_than: str | None = typer.Option(None, help="Prune: trials made longer ago than this, such as 90d."),
    foreign: bool = typer.Option(False, "--foreign", help="Prune: trials imported or merged from elsewhere."),
    other_hardware: bool = typer.Option(False, "--other-hardware", help="Prune: trials made on other machines than this."),
    json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """What tuning has tried: show it, carry it to other machines, merge, shorten and repair it."""
    from kopt.autotune.database import TrialDatabase, default_path, repair

    if action not in ACTIONS:
        raise UsageError(f"unknown action '{action}'", next_step=f"choose one of: {', '.join(ACTIONS)}")
    if (file is not None) != (action in _NEEDS_FILE):
        what = _NEEDS_FILE.get(action)
        raise UsageError(
            f"`kopt db {action}` needs {what}" if what else f"`kopt db {action}` takes no file", next_step=f"`kopt db {action} --help`"
        )
    path = db or default_path()
    if action == "repair":
        saved, lost, aside = repair(path)
        _tell({"saved": saved, "lost": lost, "damaged_file": str(aside)}, f"{saved} trials saved; the damaged file is {aside}", json)
        return
    with TrialDatabase(path, create=action in _NEEDS_FILE) as database:
        if action == "show":
            _show(database, workload, json)
        elif action == "export":
            _export(database, output)
        elif action == "prune":
            removed = _prune(database, keep, older_than, foreign, other_hardware)
            _tell({"removed": removed}, f"{removed} trials removed", json)
        else:
            added = database.merge(file) if action == "merge" and file else _import(database, file or Path())
            _tell({"added": added}, f"{added} new trials; their configs are tried first, their times count for nothing here", json)


def _tell(content: dict[str, Any], text: str, json: bool) -> None:
    if json:
        print_json(content)
    else:
        typer.echo(text)


def _export(database: TrialDatabase, output: Path | None) -> None:
    from kopt.autotune.database import export_lines

    if output is None:
        for line in export_lines(database):
            typer.echo(line)
        return
    check_folder(output)
    write_text(output, "".join(f"{line}\n" for line in export_lines(database)))
    typer.echo(str(output))


def _import(database: TrialDatabase, file: Path) -> int:
    from kopt.autotune.database import import_lines

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(
            "not a file of records: it is not UTF-8 text", where=str(file), next_step="use `kopt db merge` for databases"
        ) from None
    except OSError as error:
        raise FileError(f"cannot read: {error.strerror}", where=str(file), next_step="check the path") from None
    return import_lines(database, lines, str(file))


def _prune(database: TrialDatabase, keep: int | None, older_than: str | None, foreign: bool, other_hardware: bool) -> int:
    from kopt.autotune.budget import parse_duration
    from kopt.hardware import Target

    if keep is None and older_than is None and not foreign and not other_hardware:
        raise UsageError("nothing says what to prune", next_step="give --keep, --older-than, --foreign or --other-hardware")
    if keep is not None and keep < 0:
        raise UsageError(f"{keep} trials cannot be kept", next_step="give --keep 0 or more")
    return database.prune(
        keep=keep,
        older_than_s=None if older_than is None else parse_duration(older_than),
        foreign=foreign,
        other_hardware_than=Target.parse("cpu").fingerprint if other_hardware else None,
    )


def _show(database: TrialDatabase, workload: str | None, json: bool) -> None:
    records = list(database.records())
    if workload is not None:
        records = [one for one in records if workload in str(one.workload) or one.workload.digest.startswith(workload)]
        rows = [_trial(one) for one in records]
    else:
        rows = _summary(records)
    if json:
        print_json({"path": str(database.path), "trials": len(records), "rows": rows})
        return
    console = stdout()
    console.print(f"{database.path}: {len(records)} trials", highlight=False, soft_wrap=True)
    if rows:
        table = Table(box=None, pad_edge=False)
        for name in rows[0]:
            table.add_column(name.replace("_", " "), overflow="fold")
        for row in rows:
            table.add_row(*map(_text, row.values()))
        console.print(table, highlight=False, markup=False)


def _text(value: Any) -> str:
    from kopt.report.text import duration

    if isinstance(value, float):
        return duration(value)
    if isinstance(value, dict):
        return " ".join(f"{key}={choice}" for key, choice in value.items())
    return "-" if value is None else str(value)


def _trial(record: TrialRecord) -> dict[str, Any]:
    from kopt.trial import Failure

    outcome = record.outcome
    return {
        "workload": str(record.workload),
        "implementation": record.implementation,
        "kind": record.kind,
        "p50_us": outcome.p50_us if not isinstance(outcome, Failure) else None,
        "origin": "foreign" if record.foreign else record.surroundings.hardware,
        "config": dict(record.config),
        "detail": outcome.detail if isinstance(outcome, Failure) else "",
    }


def _summary(records: list[TrialRecord]) -> list[dict[str, Any]]:
    """One row per workload, implementation and origin: how many trials, what failed, and the best."""
    groups: dict[tuple[str, str, str], list[TrialRecord]] = {}
    for record in records:
        origin = "foreign" if record.foreign else record.surroundings.hardware
        groups.setdefault((record.workload.digest, record.implementation, origin), []).append(record)
    rows = []
    for (digest, implementation, origin), group in groups.items():
        measured = [one for one in group if one.p50_us is not None]
        best = min(measured, key=lambda one: one.p50_us or 0.0, default=None)
        failures = Counter(one.kind for one in group if one.kind not in ("measured", "slow"))
        rows.append(
            {
                "workload": str(group[0].workload),
                "digest": digest[:8],
                "implementation": implementation,
                "origin": origin,
                "trials": len(group),
                "failures": dict(failures),
                "best_us": None if best is None else best.p50_us,
                "best_config": {} if best is None else dict(best.config),
            }
        )
    return rows
