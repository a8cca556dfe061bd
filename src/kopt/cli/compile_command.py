"""`kopt compile`."""

from __future__ import annotations

from pathlib import Path

import typer

from kopt.cli.common import check_folder, parse_batches, parse_shapes, print_json, progress, stdout


def run(
    model: str = typer.Argument(..., help="An .onnx file."),
    output: Path | None = typer.Option(None, "-o", "--output", help="The artifact's directory; by default MODEL with .kopt."),
    target: str = typer.Option("cpu", help="cpu, cuda, or cuda:sm_90."),
    batch: str | None = typer.Option(None, help="Rows per call, such as 1,8,32."),
    shape: list[str] | None = typer.Option(None, help="Dimensions of an input, such as image:1x3x224x224; may be repeated."),
    precision: str = typer.Option("fp32", help="fp32, bf16 or fp16."),
    cpu_isa: str = typer.Option("native", help="Instruction set the code may need: native, x86-64-v3, x86-64-v4."),
    threads: int | None = typer.Option(None, help="Threads to compile for and measure with; by default all cores."),
    baseline: bool = typer.Option(True, help="Measure ONNX Runtime beside it, where it is installed."),
    measure: bool = typer.Option(True, help="Measure latency."),
    markdown: Path | None = typer.Option(None, help="Also write the report as Markdown."),
    json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Compile a model into an artifact: transform, compile, compare with a reference, measure, report."""
    from kopt.compiler import compile as compile_model

    if markdown is not None:
        check_folder(markdown)
    with progress() as say:
        artifact = compile_model(
            model,
            target=target,
            output=output,
            precision=precision,
            batch=parse_batches(batch),
            shapes=parse_shapes(shape),
            cpu_isa=cpu_isa,
            threads=threads,
            measure=measure,
            baseline=baseline,
            progress=say,
        )
    report = artifact.report
    if markdown is not None:
        from kopt.cli.common import write_text
        from kopt.report.text import markdown as as_markdown

        write_text(markdown, as_markdown(report))
    if json:
        print_json(report)
        return
    from kopt.report.text import show

    console = stdout()
    show(report, console)
    console.print(f"\n{artifact.path}", highlight=False)
