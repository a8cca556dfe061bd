"""`kopt tune`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from kopt.cli.common import check_threads, parse_batches, parse_shapes, print_json, progress, stdout


def run(
    model: str = typer.Argument(..., help="An .onnx file."),
    budget: str = typer.Option(..., help="How long to search, such as 90s, 10m or 1h."),
    output: Path | None = typer.Option(None, "-o", "--output", help="The artifact's directory; by default MODEL with .kopt."),
    objective: str = typer.Option("latency", help="What `--batch auto` chooses by: latency, throughput or pareto."),
    batch: str | None = typer.Option(None, help="Rows per call, such as 1,8; or auto, to be chosen from a measured curve."),
    shape: list[str] | None = typer.Option(None, help="Dimensions of an input, such as image:1x3x224x224; may be repeated."),
    precision: str = typer.Option("fp32", help="Precisions allowed, such as fp32,bf16."),
    threads: int | None = typer.Option(None, help="The only number of threads allowed; by default searched."),
    kernels: bool = typer.Option(True, help="Allow kopt's own kernels."),
    resume: bool = typer.Option(False, "--resume", help="Go on with the last search of this model that was cut off."),
    db: Path | None = typer.Option(None, help="The database of trials; by default the user's own."),
    seed: int = typer.Option(0, help="Of every random choice."),
    baseline: bool = typer.Option(True, help="Measure ONNX Runtime beside it, where it is installed."),
    measure: bool = typer.Option(True, help="Measure the artifact's latency at the end."),
    json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Search for the fastest program of a model within a budget of time, and compile it into an artifact."""
    from kopt.autotune.budget import parse_duration
    from kopt.compiler import check_precision
    from kopt.compiler import compile as compile_model
    from kopt.tune import Tuning

    check_threads(threads)
    precisions = tuple(part.strip() for part in precision.split(","))
    for name in precisions:
        check_precision(name, searched=True)
    tuning = Tuning(parse_duration(budget), objective, resume, db, seed, precisions, kernels)
    with progress() as say, _trials_are_kept():
        artifact = compile_model(
            model,
            output=output,
            batch="auto" if batch == "auto" else parse_batches(batch),
            shapes=parse_shapes(shape),
            precision=precisions[0],
            threads=threads,
            measure=measure,
            baseline=baseline,
            tuning=tuning,
            progress=say,
        )
    if json:
        print_json(artifact.report)
        return
    from kopt.report.text import show

    console = stdout()
    show(artifact.report, console)
    show_search(artifact.report["search"], console)
    console.print(f"\n{artifact.path}", highlight=False)


@contextmanager
def _trials_are_kept() -> Iterator[None]:
    """An interrupt is told how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print("every finished trial is kept; `--resume` goes on with this search", highlight=False)
        raise


def show_search(search: dict[str, Any], console: Console) -> None:
    """What was searched, the race, and the batch curve."""
    from kopt.report.text import duration

    failures = ", ".join(f"{count} {kind}" for kind, count in search["failures"].items())
    source = "known from the database" if search["from_database"] else f"{len(search['trials'])} trials in {search['seconds']:.0f} s"
    chosen = " ".join(f"{name}={choice}" for name, choice in search["chosen"].items())
    console.print(f"\nsearch: {source}" + (f", failed: {failures}" if failures else ""), highlight=False)
    console.print(f"chosen: {chosen}", highlight=False, soft_wrap=True)
    if search["race"]:
        table = Table(box=None, pad_edge=False)
        table.add_column("finalist")
        table.add_column("of the winner", justify="right")
        for entry in search["race"]:
            table.add_row(" ".join(f"{name}={choice}" for name, choice in entry["config"].items()), f"{entry['ratio']:.3f}")
        console.print(table, highlight=False)
    if search["batches"]:
        table = Table(box=None, pad_edge=False)
        for name in ("batch", "p50", "rows/s", ""):
            table.add_column(name, justify="right" if name else "left")
        for point in search["batches"]:
            marks = [name for name in ("pareto", "knee") if point[name]]
            table.add_row(str(point["batch"]), duration(point["p50_us"]), f"{point['throughput_per_s']:.4g}", " ".join(marks))
        console.print(table, highlight=False)
