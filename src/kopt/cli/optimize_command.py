"""`kopt optimize`."""

from __future__ import annotations

from pathlib import Path

import typer

from kopt.cli.common import check_folder, print_json
from kopt.errors import UsageError


def run(
    model: Path = typer.Argument(..., help="An .onnx file."),
    output: Path = typer.Option(..., "-o", "--output", help="Where the result goes."),
    preset: str = typer.Option("onnx", help="onnx (standard operators) or onnxruntime (with its fused ones)."),
    passes: str | None = typer.Option(None, help='Passes instead of a preset, such as "fold-constants,cleanup".'),
    rebatch: str | None = typer.Option(None, help="Another batch: a number, or a name for a symbolic one."),
    opset: int | None = typer.Option(None, help="ai.onnx version to write; by default 21, or newer where needed."),
    json: bool = typer.Option(False, "--json", help="What each pass did, as JSON."),
) -> None:
    """Write clean, fused ONNX that other runtimes can use."""
    from kopt.frontend.export import save
    from kopt.frontend.load import load
    from kopt.passes.base import PassContext
    from kopt.passes.pipeline import Pipeline
    from kopt.passes.pipeline import preset as preset_passes
    from kopt.passes.rebatch import Rebatch
    from kopt.passes.spec import parse_passes
    from kopt.targets.reference import evaluate_node

    check_folder(output)
    if rebatch is not None and not rebatch.isdigit() and not rebatch.isidentifier():
        raise UsageError(f"'{rebatch}' is neither a batch nor a name", next_step="write for instance --rebatch 8 or --rebatch batch")
    graph = load(str(model))
    wanted = parse_passes(passes) if passes is not None else preset_passes(preset)
    if rebatch is not None:
        wanted = (Rebatch(batch=int(rebatch) if rebatch.isdigit() else rebatch), *wanted)
    before = len(graph.nodes)
    graph, records = Pipeline(tuple(wanted)).run(graph, PassContext(evaluate_node=evaluate_node))
    save(graph, output, opset=opset)
    if json:
        print_json(
            [
                {"pass": record.spec, "nodes": [record.num_nodes_before, record.num_nodes_after], "rewrites": record.rewrites}
                for record in records
            ]
        )
        return
    for record in records:
        if record.rewrites:
            typer.echo(f"{record.spec}: " + ", ".join(f"{rule} {count}" for rule, count in record.rewrites.items()))
    typer.echo(f"{output}: {before} nodes became {len(graph.nodes)}")
