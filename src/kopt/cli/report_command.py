"""`kopt report`."""

from __future__ import annotations

from pathlib import Path

import typer

from kopt.cli.common import check_folder, check_html, print_json, read_report, stdout, write_html, write_text
from kopt.errors import UsageError


def run(
    sources: list[Path] = typer.Argument(..., help="Artifacts, or their report.json; several are shown side by side."),
    html: Path | None = typer.Option(None, help="Write one HTML file with charts, which needs nothing else."),
    markdown: Path | None = typer.Option(None, help="Write Markdown."),
    json: bool = typer.Option(False, "--json", help="Print the reports as JSON."),
) -> None:
    """Show the stored reports of artifacts."""
    from kopt.report.text import markdown as as_markdown
    from kopt.report.text import show

    if markdown is not None:
        check_folder(markdown)
    check_html(html)
    reports = [(name, read_report(path)[0]) for name, path in zip(_names(sources), sources, strict=True)]
    empty = [str(path) for path, (_, report) in zip(sources, reports, strict=True) if not report]
    if empty:
        raise UsageError("the artifact holds no report", where=empty[0], next_step="compile the model again")
    if html is not None:
        write_html(html, reports)
    if markdown is not None:
        write_text(markdown, "\n".join(as_markdown(report) for _, report in reports))
    if json:
        print_json(reports[0][1] if len(reports) == 1 else [report for _, report in reports])
        return
    for _, report in reports:
        show(report, stdout())


def _names(paths: list[Path]) -> list[str]:
    """What to call each: the last part of its path (report.json says nothing, its folder does), the whole where two share that."""
    short = [path.resolve().parent.name if path.name == "report.json" else path.name for path in paths]
    return [str(path) if short.count(name) > 1 else name for path, name in zip(paths, short, strict=True)]
