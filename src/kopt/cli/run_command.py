"""`kopt run`."""

from __future__ import annotations

from pathlib import Path

import typer

from kopt.cli.common import check_folder, print_json, read_arrays, write_arrays
from kopt.cli.values import described, facts, gathered, spread


def run(
    artifact: Path = typer.Argument(..., help="A directory that `kopt compile` wrote."),
    inputs: Path = typer.Option(..., help="An .npz with one array per input; members of a sequence NAME are NAME/0, NAME/1, ..."),
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
    results = session.run(gathered(read_arrays(inputs), session.signature))
    if output is not None:
        write_arrays(output, dict(item for name, value in results.items() for item in spread(name, value)))
    if json:
        print_json({"tier": session.tier, "outputs": {name: facts(value) for name, value in results.items()}})
        return
    for name, value in results.items():
        typer.echo(f"{name}: {described(value)}")
    typer.echo(f"tier: {session.tier}")
