"""`kopt finish`."""

from __future__ import annotations

from pathlib import Path

import typer

from kopt.cli.common import progress


def run(
    artifact: Path = typer.Argument(..., help="An artifact without native code for this machine."),
    output: Path = typer.Option(..., "-o", "--output", help="Where the completed artifact goes."),
) -> None:
    """Compile what an artifact lacks for this machine, and write the completed artifact."""
    from kopt.session.finish import finish

    with progress() as say:
        say("compiling what is missing")
        done = finish(artifact, output)
    typer.echo(str(done.path))
