"""`kopt bench`."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from kopt.cli.common import check_html, check_threads, parse_batches, parse_shapes, print_json, progress, stdout, write_text
from kopt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


BACKENDS: dict[str, dict[str, Any]] = {"kopt": {}, "xla": {"backend": "xla", "kernels": False}, "tvm": {"backend": "tvm"}}
"""Runtimes that are artifacts, and how they are compiled."""


def run(
    models: list[Path] = typer.Argument(..., help="Artifacts, or .onnx files."),
    runner: str = typer.Option(
        "kopt,onnxruntime", help="Runtimes: kopt, xla, tvm, onnxruntime, openvino. xla and tvm are kopt with that backend alone."
    ),
    batch: str | None = typer.Option(None, help="Rows per call, such as 1,8: each is measured."),
    shape: list[str] | None = typer.Option(None, help="Dimensions of an input, such as image:1x3x224x224; may be repeated."),
    rounds: int = typer.Option(8, help="Blocks of each runtime."),
    threads: int | None = typer.Option(None, help="Threads of each runtime; by default all cores."),
    html: Path | None = typer.Option(None, help="Also write one HTML file with charts."),
    json: bool = typer.Option(False, "--json", help="With raw samples, as JSON."),
) -> None:
    """Measure models in several runtimes: same inputs, one process each, alternating blocks."""
    from kopt.runners import KINDS, require

    kinds = list(dict.fromkeys(kind.strip() for kind in runner.split(",")))
    if rounds < 1:
        raise UsageError(f"{rounds} rounds measure nothing", next_step="give --rounds 1 or more")
    check_threads(threads)
    for kind in kinds:
        if kind not in BACKENDS.keys() | KINDS.keys():
            raise UsageError(f"unknown runner '{kind}'", next_step=f"choose one of: {', '.join(dict.fromkeys([*BACKENDS, *KINDS]))}")
        require("kopt" if kind in BACKENDS else kind)
    check_html(html)
    batches = parse_batches(batch)
    wanted = [None] if batches is None else [(rows,) for rows in batches]
    with progress() as say:
        results = [bench(model, kinds, one, parse_shapes(shape), rounds, threads, say) for model in models for one in wanted]
    if html is not None:
        write_text(html, _page(results, threads))
    if json:
        print_json(results)
        return
    for result in results:
        _show(result)


def bench(
    model: Path,
    kinds: list[str],
    batches: tuple[int, ...] | None,
    shapes: dict[str, tuple[int, ...]],
    rounds: int,
    threads: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Latency of one model in each runtime, and ratios to the last one named."""
    from kopt import buckets
    from kopt.artifact import Artifact
    from kopt.artifact.read import is_artifact
    from kopt.compiler import compile as compile_model
    from kopt.frontend.export import save
    from kopt.frontend.load import load
    from kopt.ir.types import TensorType
    from kopt.references import bound_graph

    with tempfile.TemporaryDirectory(prefix="kopt-bench-") as folder:
        artifact = model if is_artifact(model) else Path(folder, "model.kopt")
        if artifact is not model and "kopt" in kinds:
            compile_model(str(model), output=artifact, batch=batches, shapes=shapes, measure=False, progress=say)
        source = Artifact.open(artifact).model_path if is_artifact(model) else model
        if batches is None and not shapes and is_artifact(artifact):
            shapes = Artifact.open(artifact).manifest.programs[0].signature.shapes
        graph, wanted = buckets.plan(load(str(source)), batches, shapes)
        feeds = buckets.random_inputs(graph, wanted[0].shapes)
        other = [value for value in (*graph.inputs, *graph.outputs) if not isinstance(value.type, TensorType)]
        if other:
            raise UsageError(
                f"'{other[0].name}' is {other[0].type}, and what is measured takes and gives tensors",
                where=str(model),
                next_step="measure the part of the model between tensors",
            )
        peer = Path(folder, "peer.onnx")
        if set(kinds) - {"kopt"}:
            save(bound_graph(graph, wanted[0].shapes), peer, external=True)
        paths = {kind: artifact if kind == "kopt" else peer for kind in kinds}
        for kind in (one for one in kinds if one in BACKENDS and one != "kopt"):
            say(f"compiling with {kind}")
            paths[kind] = Path(folder, f"{kind}.kopt")
            compile_model(str(peer), output=paths[kind], threads=threads, measure=False, **BACKENDS[kind])
        shown = {name: list(dims) for name, dims in wanted[0].shapes.items()}
        return {"model": model.name, "batch": wanted[0].batch, "shapes": shown, "runners": _compare(paths, feeds, rounds, threads, say)}


def _compare(
    paths: dict[str, Path], feeds: dict[str, np.ndarray], rounds: int, threads: int | None, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Latency of each runtime on its file, in alternating blocks, with the ratio to the last one."""
    from kopt.hardware import available_cores
    from kopt.latency import latency
    from kopt.measure import Protocol, block_ratio
    from kopt.runners import Runner, alternate

    with ExitStack() as stack:
        runners = []
        for kind, path in paths.items():
            say(f"starting {kind}")
            runners.append(
                stack.enter_context(Runner("kopt" if kind in BACKENDS else kind, path, feeds, threads=threads or available_cores()))
            )
        measured = alternate(runners, Protocol(rounds=rounds), lambda done: say(f"round {done} of {rounds}"))
        entries = []
        for kind, one, side in zip(paths, runners, measured, strict=True):
            ratio = block_ratio(side, measured[-1])
            entry = {"runner": kind, **asdict(one.started), "latency": latency(side), "peak_bytes": one.peak_bytes()}
            entries.append({**entry, "ratio": [ratio.value, ratio.lower, ratio.upper]})
        return entries


def _page(results: list[dict[str, Any]], threads: int | None) -> str:
    """The results as an HTML page."""
    from kopt.hardware import available_cores
    from kopt.report import model as reports
    from kopt.report.html import render
    from kopt.report.page import of_comparison

    machine = {**reports.machine(), "threads": threads or available_cores()}
    return render(of_comparison(results, machine, reports.versions()))


def _show(result: dict[str, Any]) -> None:
    from kopt.report.text import duration, size

    console = stdout()
    last = result["runners"][-1]["runner"]
    shapes = ", ".join(f"{name} {'x'.join(map(str, dims))}" for name, dims in result["shapes"].items())
    table = Table(box=None, pad_edge=False, title=f"{result['model']}: {shapes}", title_justify="left")
    for column in ("runner", "p50", "p90", "p99", f"of {last}", "load", "first", "memory"):
        table.add_column(column, justify="left" if column == "runner" else "right")
    for entry in result["runners"]:
        times = (duration(entry["latency"][key]) for key in ("p50_us", "p90_us", "p99_us"))
        low, high = entry["ratio"][1:]
        ratio = f"{entry['ratio'][0]:.2f} [{low:.2f}, {high:.2f}]"
        table.add_row(
            f"{entry['runner']} {entry['version']}",
            *times,
            ratio,
            duration(entry["load_s"] * 1e6),
            duration(entry["first_s"] * 1e6),
            size(entry["peak_bytes"]),
        )
    console.print(table)
