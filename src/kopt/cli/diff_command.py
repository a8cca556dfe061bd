"""`kopt diff`."""

from __future__ import annotations

from pathlib import Path

import typer

from kopt.cli.common import check_folder, read_report, stdout, write_text


def run(
    before: Path = typer.Argument(..., help="An artifact, or a report.json."),
    after: Path = typer.Argument(..., help="The other one."),
    json: Path | None = typer.Option(None, help="Write everything as JSON."),
    markdown: Path | None = typer.Option(None, help="Write everything as Markdown."),
) -> None:
    """Why did it change: times by node, passes, versions, options, threads, machine, and the likely reasons in order."""
    from json import dumps

    from kopt.report.diff import diff
    from kopt.report.diff_text import markdown as as_markdown
    from kopt.report.diff_text import show
    from kopt.report.diff_types import Side

    for path in (json, markdown):
        if path is not None:
            check_folder(path)
    found = diff(*(Side(str(path), *read_report(path)) for path in (before, after)))
    if json is not None:
        write_text(json, dumps(found.to_json(), sort_keys=True, ensure_ascii=False, indent=1) + "\n")
    if markdown is not None:
        write_text(markdown, as_markdown(found))
    show(found, stdout())
