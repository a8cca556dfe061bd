"""`kopt run`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import typer

from kopt.cli.common import check_folder, print_json, read_arrays, select_inputs, write_arrays


def run(
    artifact: Path = typer.Argument(..., help="A directory that `kopt compile` wrote."),
    inputs: Path = typer.Option(..., help="An .npz with one array per input."),
    output: Path | None = typer.Option(None, "-o", "--output", help="Where the outputs go, as .npz; by default they are only described."),
    require: str | None = typer.Option(None, help="native, recompiled or reference: that tier or an error."),
    exact: bool = typer.Option(False, help="Refuse shapes that were not compiled."),
    threads: int | None = typer.Option(None, help="Threads; by default all cores."),
    json: bool = typer.Option(False, "--json", help="Describe the outputs as JSON."),
) -> None:
    """Run an artifact on inputs from a file."""
    from kopt.session import load

    if output is not None:
        check_folder(output)
    session = load(artifact, require=require, exact=exact, threads=threads)
    feeds = select_inputs(read_arrays(inputs), [name for name, _ in session.signature.inputs])
    results = {name: np.asarray(array) for name, array in session.run(feeds).items()}
    if output is not None:
        write_arrays(output, results)
    if json:
        print_json(
            {"tier": session.tier, "outputs": {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in results.items()}}
        )
        return
    for name, array in results.items():
        typer.echo(f"{name}: {array.dtype}{list(array.shape)}")
    typer.echo(f"tier: {session.tier}")
