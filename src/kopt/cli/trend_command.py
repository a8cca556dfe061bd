"""`kopt trend`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.table import Table

from kopt.cli.common import print_json, stdout


def run(
    reports: list[Path] = typer.Argument(..., help="Files that `kopt check --json` wrote, oldest first, or directories of them."),
    json: bool = typer.Option(False, "--json", help="As JSON, with every value."),
) -> None:
    """Where latency, memory and size changed their level over many reports."""
    from dataclasses import asdict

    from kopt.check.trend import report_files, trend_of

    found = trend_of(report_files(reports))
    if json:
        print_json({"schema": 1, "series": [asdict(one) for one in found]})
        return
    from rich.markup import escape

    from kopt.check.describe import quantity

    table = Table(box=None, pad_edge=False)
    several = len({one.machine for one in found}) > 1
    for column in (*(("machine",) if several else ()), "model", "batch", "figure", "reports", "now", "changes"):
        table.add_column(column, overflow="fold")
    for one in found:
        changes = [
            f"{'worse' if change.worse else 'better'} {change.change:+.1%} since {change.report}"
            f" ({quantity(one.key, change.before)} to {quantity(one.key, change.after)})"
            for change in one.changes
        ]
        now = quantity(one.key, one.changes[-1].after if one.changes else one.values[-1])
        cells = (one.model, str(one.batch or ""), one.key, str(len(one.values)), now, "\n".join(changes) or "none")
        table.add_row(*map(escape, (one.machine, *cells) if several else cells))
    stdout().print(table)
