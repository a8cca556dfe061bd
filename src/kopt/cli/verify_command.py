"""`kopt verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from kopt.cli.common import print_json, read_arrays
from kopt.cli.values import gathered
from kopt.errors import AccuracyError, UsageError


def run(
    artifact: Path = typer.Argument(..., help="A directory that `kopt compile` wrote."),
    against: Path = typer.Option(..., help="The model to compare with."),
    inputs: Path | None = typer.Option(None, help="An .npz of inputs; by default random ones at the first compiled shape."),
    rtol: float = typer.Option(1e-4, help="Error allowed, relative to the largest output."),
    atol: float = typer.Option(0.0, help="Error allowed, absolute."),
    json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Compare an artifact's outputs with those of a model; exit code 4 when they differ."""
    from kopt.buckets import random_inputs
    from kopt.frontend.load import load as load_model
    from kopt.ir.types import TensorType
    from kopt.references import compare, reference_outputs
    from kopt.session import load

    if not (rtol >= 0 and atol >= 0):
        raise UsageError(f"tolerances {rtol} and {atol} are not possible", next_step="give --rtol and --atol of at least 0")
    session = load(artifact)
    graph = load_model(str(against))
    if inputs is not None:
        feeds = gathered(read_arrays(inputs), session.signature)
    else:
        feeds = random_inputs(graph, session.artifact.manifest.programs[0].signature.shapes)
    if any(
        feeds[value.name].shape[:1] != (value.tensor.shape or ())[:1]
        for value in graph.inputs
        if value.name in feeds and isinstance(value.type, TensorType) and value.type.is_static
    ):
        from kopt.buckets import plan

        graph, _ = plan(graph, (next(iter(feeds.values())).shape[0],), {})
    outputs = list(session.run(feeds).values())
    plain = {value.name for value in graph.inputs if isinstance(value.type, TensorType)}
    reference = reference_outputs(graph, {name: array.shape for name, array in feeds.items() if name in plain}, feeds)
    names = [name for name, _ in session.signature.outputs]
    found = _worst(
        [compare([name], [ours], [theirs]) for name, ours, theirs in zip(names, outputs, reference.outputs, strict=True)], rtol, atol
    )
    passed = _within(found, rtol, atol)
    if json:
        print_json({**found, "reference": reference.name, "rtol": rtol, "atol": atol, "passed": passed, "tier": session.tier})
    if not passed:
        raise AccuracyError(
            f"'{found['worst']}' differs from {reference.name} by {found['relative']:.2g} of its largest value ({rtol:.2g} allowed)",
            where=str(artifact),
            next_step="compile the model again, or allow more with --rtol",
        )
    if not json:
        typer.echo(f"equal to {reference.name}: largest error {found['max_abs']:.3g}, {found['relative']:.2g} of the largest value")


def _within(found: Mapping[str, Any], rtol: float, atol: float) -> bool:
    return bool(found["relative"] <= rtol or found["max_abs"] <= atol)


def _worst(found: Sequence[dict[str, Any]], rtol: float, atol: float) -> dict[str, Any]:
    """The output to speak of: the first one beyond the limits, else the one with the largest relative error."""
    for one in found:
        if not _within(one, rtol, atol):
            return one
    return max(found, key=lambda one: one["relative"], default={"worst": "", "max_abs": 0.0, "mean_abs": 0.0, "relative": 0.0})
