"""`kopt prune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from kopt.cli.common import check_folder, print_json, progress, stdout
from kopt.errors import UsageError


def run(
    model: Path = typer.Argument(..., help="An .onnx file."),
    output: Path = typer.Option(..., "-o", "--output", help="Where the result goes."),
    ratio: float | None = typer.Option(None, help="Share of channels, or of weights, that goes; 0.5 where nothing is said."),
    latency: str | None = typer.Option(None, help="Instead: the wanted latency, such as 0.6x of the original's, measured here."),
    method: str = typer.Option(
        "structured", help="structured (channels, heads and neurons go), or for size only: unstructured, or N:M such as 2:4."
    ),
    calib: str | None = typer.Option(None, help="Inputs to score and rebuild by: an .npz, a folder, or FILE.py:FUNCTION."),
    json: bool = typer.Option(False, "--json", help="What went, as JSON."),
) -> None:
    """Cut channels, attention heads and neurons out of a model, or write zeros into its weights."""
    from kopt.pruning import prune

    check_folder(output)
    with progress() as say:
        pruned = prune(str(model), output, ratio=ratio, latency=_share(latency), method=method, calib=calib, progress=say)
    if json:
        print_json(pruned.report)
        return
    _show(pruned.report)
    typer.echo(str(output))


def _share(text: str | None) -> float | None:
    """0.6 of "0.6x".

    Raises:
        UsageError: not such a target.
    """
    if text is None:
        return None
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        raise UsageError(f"'{text}' is no latency", next_step="write a share of the original's, such as --latency 0.6x") from None


def _show(report: Mapping[str, Any]) -> None:
    """Parameters, groups and latencies for people."""
    console = stdout()
    before, after = report["parameters"]
    if report["size_only"]:
        console.print(f"{report['zeros']} of {before} parameters are zero. Size only: {report['note']}.", highlight=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("group", "units", "kept"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for group in report["groups"]:
        kind = f" (heads of {group['span']})" if group["span"] > 1 else ""
        table.add_row(group["node"] + kind, str(group["before"]), str(group["after"]))
    console.print(table, highlight=False)
    console.print(f"{before} parameters became {after}", highlight=False)
    if report.get("latency"):
        measured = report["latency"]
        console.print(f"latency: {measured['ratio']:.2f} of the original's ({measured['before_us']:.0f} us), measured", highlight=False)
    console.print("Its accuracy changed: `kopt recover` trains it back from the original.", highlight=False, soft_wrap=True)
