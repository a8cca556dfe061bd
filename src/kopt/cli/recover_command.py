"""`kopt recover`."""

from __future__ import annotations

from pathlib import Path

import typer

from kopt.cli.common import check_folder, print_json, progress


def run(
    student: Path = typer.Argument(..., help="A pruned or quantized .onnx file."),
    teacher: Path = typer.Option(..., help="The .onnx file it was made from."),
    calib: str = typer.Option(..., help="100 or more real inputs, no labels: an .npz, a folder, or FILE.py:FUNCTION."),
    output: Path = typer.Option(..., "-o", "--output", help="Where the result goes; progress is kept beside it."),
    budget: str = typer.Option("3m", help="How long to train, such as 90s or 3m."),
    freeze_masks: bool = typer.Option(True, help="Zeros of weights stay zeros."),
    seed: int = typer.Option(0, help="Of every random choice."),
    json: bool = typer.Option(False, "--json", help="What was reached, as JSON."),
) -> None:
    """Train a compressed model back from its original, without labels."""
    from kopt.autotune.budget import parse_duration
    from kopt.recovery.api import recover

    check_folder(output)
    seconds = parse_duration(budget)
    try:
        with progress() as say:
            recovered = recover(
                str(student), str(teacher), calib, output, budget_s=seconds, freeze_masks=freeze_masks, seed=seed, progress=say
            )
    except KeyboardInterrupt:
        typer.echo("progress is kept beside the output; the same command goes on with it", err=True)
        raise
    report = recovered.report
    if json:
        print_json(report)
        return
    before, after = report["error_before"], report["error_after"]
    typer.echo(f"held-out error of the outputs: {before:.3g} became {after:.3g} of their energy")
    typer.echo(f"{report['steps']} steps in {report['seconds']:.0f} s, the best was {report['best_step']}")
    typer.echo(str(output))
