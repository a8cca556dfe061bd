"""`kopt export`."""

from __future__ import annotations

from pathlib import Path

import typer

from kopt.cli.common import check_folder, one_batch, parse_shapes, write_text
from kopt.errors import UsageError


def run(
    form: str = typer.Argument(..., help="onnx or stablehlo."),
    source: Path = typer.Argument(..., help="An artifact or an .onnx file."),
    output: Path = typer.Option(..., "-o", "--output", help="Where the result goes."),
    batch: str | None = typer.Option(None, help="Rows per call, for StableHLO."),
    shape: list[str] | None = typer.Option(None, help="Dimensions of an input, such as image:1x3x224x224; may be repeated."),
    target: str = typer.Option("cpu", help="What StableHLO is lowered for: cpu, cuda."),
) -> None:
    """Write an artifact or model as ONNX, or as StableHLO text."""
    from kopt.artifact import Artifact
    from kopt.frontend.export import save
    from kopt.frontend.load import load

    if form not in ("onnx", "stablehlo"):
        raise UsageError(f"unknown form '{form}'", next_step="choose one of: onnx, stablehlo")
    check_folder(output)
    graph = load(str(Artifact.open(source).model_path if source.is_dir() else source))
    if form == "onnx":
        save(graph, output)
    else:
        from kopt import buckets
        from kopt.compiler import import_graph
        from kopt.hardware import Target
        from kopt.specialize import Recipe, specialize

        graph, _ = import_graph(graph)
        graph, wanted = buckets.plan(graph, one_batch(batch), parse_shapes(shape))
        write_text(output, specialize(graph, Recipe.of_preset("xla"), Target.parse(target), shapes=wanted[0].shapes).lowered.text)
    typer.echo(str(output))
