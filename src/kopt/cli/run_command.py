"""`kopt run`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import typer

from kopt.cli.common import print_json, read_arrays, write_arrays


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

    session = load(artifact, require=require, exact=exact, threads=threads)
    given = read_arrays(inputs)
    names = {name for name, _ in session.signature.inputs}
    results = {
        name: np.asarray(array)
        for name, array in session.run({k: v for k, v in given.items() if k in names or not names & set(given)}).items()
    }
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
