"""`kopt compile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kopt.cli.common import check_folder, check_html, parse_batches, parse_shapes, print_json, progress, stdout, write_html, write_text

if TYPE_CHECKING:
    from kopt.artifact import Artifact


def run(
    model: str = typer.Argument(..., help="An .onnx file."),
    output: Path | None = typer.Option(None, "-o", "--output", help="The artifact's directory; by default MODEL with .kopt."),
    target: str = typer.Option("cpu", help="cpu, cuda, or cuda:sm_90."),
    batch: str | None = typer.Option(None, help="Rows per call, such as 1,8,32."),
    shape: list[str] | None = typer.Option(None, help="Dimensions of an input, such as image:1x3x224x224; may be repeated."),
    precision: str = typer.Option("fp32", help="fp32, bf16, fp16; int8, auto, int8-dynamic, int8-weights, int4-weights."),
    calib: str | None = typer.Option(None, help="Inputs for int8: an .npz, a folder of .npy or test_data_set_*, or FILE.py:FUNCTION."),
    max_drop: float = typer.Option(0.01, help="With --precision auto: how much the metric may lose."),
    metric: str | None = typer.Option(None, help="With --precision auto: FILE.py:FUNCTION of outputs (and labels) to a number."),
    cpu_isa: str = typer.Option("native", help="Instruction set the code may need: native, x86-64-v3, x86-64-v4."),
    threads: int | None = typer.Option(None, help="Threads to compile for and measure with; by default all cores."),
    kernels: bool = typer.Option(True, help="Run products and convolutions as kopt's own kernels (CPU; needs a C compiler)."),
    backend: str = typer.Option("xla", help="xla, or tvm (CPU, fp32): the whole model as kopt's own loop nests."),
    budget: str | None = typer.Option(None, help="How long to search for a faster program, such as 10m; `kopt tune` has more options."),
    baseline: bool = typer.Option(True, help="Measure ONNX Runtime beside it, where it is installed."),
    measure: bool = typer.Option(True, help="Measure latency."),
    markdown: Path | None = typer.Option(None, help="Also write the report as Markdown."),
    html: Path | None = typer.Option(None, help="Also write the report as one HTML file with charts."),
    json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Compile a model into an artifact: transform, compile, compare with a reference, measure, report."""
    from kopt.compiler import compile as compile_model
    from kopt.quantization import Options

    if markdown is not None:
        check_folder(markdown)
    check_html(html)
    with progress() as say:
        artifact = compile_model(
            model,
            target=target,
            output=output,
            precision=Options(precision, max_drop=max_drop, metric=metric) if precision == "auto" else precision,
            calib=calib,
            batch="auto" if batch == "auto" else parse_batches(batch),
            shapes=parse_shapes(shape),
            cpu_isa=cpu_isa,
            threads=threads,
            kernels=kernels,
            budget=budget,
            backend=backend,
            measure=measure,
            baseline=baseline,
            progress=say,
        )
    _write(artifact, markdown, html)
    _show(artifact, json)


def _show(artifact: Artifact, json: bool) -> None:
    if json:
        print_json(artifact.report)
        return
    from kopt.report.text import show

    console = stdout()
    show(artifact.report, console)
    console.print(f"\n{artifact.path}", highlight=False)


def _write(artifact: Artifact, markdown: Path | None, html: Path | None) -> None:
    if markdown is not None:
        from kopt.report.text import markdown as as_markdown

        write_text(markdown, as_markdown(artifact.report))
    if html is not None:
        write_html(html, [(artifact.path.name, artifact.report)])
