"""`kopt quantize`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from kopt.cli.common import check_folder, print_json, progress


def run(
    model: str = typer.Argument(..., help="An .onnx file."),
    output: Path = typer.Option(..., "-o", "--output", help="Where the result goes."),
    precision: str = typer.Option("int8", help="int8, auto, int8-dynamic, int8-weights, int4-weights, bf16 or fp16."),
    calib: str | None = typer.Option(None, help="Inputs: an .npz, a folder of .npy or test_data_set_*, or FILE.py:FUNCTION."),
    keep: str | None = typer.Option(None, help="Nodes or operators that stay as they are, separated by commas."),
    max_drop: float = typer.Option(0.01, help="With auto: how much the metric may lose."),
    metric: str | None = typer.Option(None, help="With auto: FILE.py:FUNCTION of outputs (and labels) to a number, larger is better."),
    timed: bool = typer.Option(True, help="With auto: keep the model in fp32 where 8 bits are not faster on this machine."),
    json: bool = typer.Option(False, "--json", help="What was done and what it cost, as JSON."),
) -> None:
    """Write a quantized ONNX file that any runtime can use, and say what it costs in accuracy."""
    from kopt.quantization import quantize

    check_folder(output)
    with progress() as say:
        result = quantize(
            model,
            calib,
            precision=precision,
            output=output,
            keep=tuple(keep.split(",")) if keep else (),
            max_drop=max_drop,
            metric=metric,
            timed=timed,
            progress=say,
        )
    if json:
        print_json(result.report)
        return
    for line in describe(result.report):
        typer.echo(line)
    typer.echo(str(output))


def describe(report: Mapping[str, Any]) -> list[str]:
    """The report as lines of text."""
    before, after = report["bytes"]
    lines = [f"{report['model']}: {report['precision']}, weights {before / 1e6:.3g} MB became {after / 1e6:.3g} MB"]
    for name, found in report.get("outputs", {}).items():
        snr = "equal" if found["snr_db"] is None else f"{found['snr_db']:.1f} dB"
        flips = f", {found['flips']} of {found['rows']} classes differ" if "flips" in found else ""
        lines.append(f"{name}: {snr}, cosine {found['cosine_mean']:.6f} (least {found['cosine_min']:.6f}){flips}")
    if "auto" in report:
        auto = report["auto"]
        lines.append(
            f"{auto['metric']} drops by {auto['drop']:.4f} ± {auto['interval']:.4f} of {auto['max_drop']:g} allowed; "
            f"in fp32 stay: {', '.join(auto['kept']) or 'no layers'}"
        )
        lines += [auto["reason"]] if "reason" in auto else [f"time {auto['time']['ratio']:.2f} of fp32 here"] if "time" in auto else []
    return lines
