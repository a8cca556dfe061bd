"""`kopt check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from kopt.cli.common import progress, stdout, write_text
from kopt.errors import EXIT_BUDGET_FAILED, EXIT_INCONCLUSIVE, UsageError

if TYPE_CHECKING:
    from kopt.check.gate import Outcome

_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


def run(
    artifacts: list[Path] = typer.Argument(..., help="Directories that `kopt compile` wrote."),
    budget: Path | None = typer.Option(None, help="A file of [[budget]] tables."),
    baseline: Path | None = typer.Option(None, help="An artifact to be measured beside, or a directory of them."),
    update_baseline: bool = typer.Option(False, help="Record the artifacts as baselines when everything passed."),
    junit: Path | None = typer.Option(None, help="Write JUnit XML."),
    github: bool = typer.Option(False, help="Add to the step summary of GitHub Actions and annotate the budgets' lines."),
    step_summary: Path | None = typer.Option(None, envvar="GITHUB_STEP_SUMMARY", help="Where --github writes its table."),
    json: Path | None = typer.Option(None, help="Write results and raw samples as JSON."),
    prometheus: Path | None = typer.Option(None, help="Write a Prometheus textfile."),
    benchstat: Path | None = typer.Option(None, help="Write the text benchstat reads."),
    seed: int = typer.Option(0, help="Of the order of blocks and of the bootstrap."),
    time_limit: float = typer.Option(120.0, help="Seconds for one artifact."),
    threads: int | None = typer.Option(None, help="Threads of the measured processes; by default all cores."),
) -> None:
    """Judge artifacts against budgets and a baseline: exit code 0 pass, 1 fail, 3 inconclusive."""
    from kopt.check.budget import read_budgets
    from kopt.check.gate import Gate
    from kopt.check.measure_pairs import PairProtocol

    if budget is None and baseline is None:
        raise UsageError("there is nothing to judge against", next_step="give --budget budgets.toml, --baseline OLD.kopt, or both")
    if not time_limit > 0 or (threads is not None and threads < 1):
        raise UsageError("time limit and threads must be positive", next_step="correct --time-limit or --threads")
    if update_baseline and (baseline is None or (len(artifacts) > 1 and _is_one(baseline))):
        raise UsageError("it is unclear what to update", next_step="give a directory to --baseline")
    if update_baseline and baseline is not None and not baseline.exists():
        baseline.mkdir(parents=True)
    budgets = read_budgets(budget) if budget is not None else ()
    with progress() as say:
        protocol = PairProtocol(time_limit_s=time_limit)
        outcome = Gate(budgets, baseline, protocol, seed, threads or 0, say, recording=update_baseline).evaluate(artifacts)
    _write(outcome, {"junit": junit, "json": json, "prometheus": prometheus, "benchstat": benchstat})
    _show(outcome)
    if github:
        _tell_github(outcome, budget, step_summary)
    if update_baseline and baseline is not None and outcome.verdict.value == "pass":
        _record(baseline, artifacts)
    raise typer.Exit({"pass": 0, "fail": EXIT_BUDGET_FAILED, "inconclusive": EXIT_INCONCLUSIVE}[outcome.verdict.value])


def _is_one(baseline: Path) -> bool:
    from kopt.artifact import is_artifact

    return is_artifact(baseline)


def _write(outcome: Outcome, paths: dict[str, Path | None]) -> None:
    from kopt.check.benchstat import to_benchstat
    from kopt.check.json_output import to_json
    from kopt.check.junit import to_junit
    from kopt.check.prometheus import to_prometheus

    texts = {
        "junit": lambda: to_junit(outcome.results),
        "json": lambda: to_json(outcome),
        "prometheus": lambda: to_prometheus(outcome.results),
        "benchstat": lambda: to_benchstat(outcome),
    }
    for kind, path in paths.items():
        if path is not None:
            write_text(path, texts[kind]())


def _tell_github(outcome: Outcome, budget: Path | None, summary: Path | None) -> None:
    from kopt.check.github import append_summary, workflow_commands

    if summary is not None:
        append_summary(summary, outcome.results)
    for line in workflow_commands(outcome.results, budget):
        typer.echo(line)


def _record(baseline: Path, artifacts: list[Path]) -> None:
    from kopt.check.baseline import record

    for artifact in artifacts:
        typer.echo(f"recorded {record(baseline, artifact)}", err=True)


def _show(outcome: Outcome) -> None:
    from rich.markup import escape

    from kopt.check.describe import allowed, evidence, found, subject

    table = Table(box=None, pad_edge=False)
    for column in ("verdict", "model", "limit", "found", "allowed", "evidence", "note"):
        table.add_column(column, overflow="fold")
    for one in outcome.results:
        style = _STYLES[one.verdict.value]
        cells = (subject(one), one.key, found(one), allowed(one), evidence(one), one.note)
        table.add_row(f"[{style}]{one.verdict.value}[/{style}]", *map(escape, cells))
    stdout().print(table)
