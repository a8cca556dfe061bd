"""The command line: one file per command, errors in three parts on stderr, results on stdout.

Command files import no compiler at their top, so that `kopt --help` starts at once; a test says so.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from kopt import __version__
from kopt.cli import (
    bench_command,
    check_command,
    compile_command,
    db_command,
    diff_command,
    doctor_command,
    export_command,
    finish_command,
    inspect_command,
    optimize_command,
    prune_command,
    quantize_command,
    recover_command,
    report_command,
    run_command,
    trend_command,
    tune_command,
    verify_command,
)
from kopt.errors import EXIT_INTERRUPTED, FileError, KoptError, UsageError

COMMANDS: dict[str, Callable[..., None]] = {
    "inspect": inspect_command.run,
    "compile": compile_command.run,
    "tune": tune_command.run,
    "run": run_command.run,
    "bench": bench_command.run,
    "check": check_command.run,
    "trend": trend_command.run,
    "report": report_command.run,
    "diff": diff_command.run,
    "verify": verify_command.run,
    "optimize": optimize_command.run,
    "quantize": quantize_command.run,
    "prune": prune_command.run,
    "recover": recover_command.run,
    "export": export_command.run,
    "finish": finish_command.run,
    "db": db_command.run,
    "doctor": doctor_command.run,
}
"""Every command, in the order they are listed."""

app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="ONNX models in, the fastest artifact that keeps its accuracy out, with the measurements that prove it.",
)
for _name, _function in COMMANDS.items():
    app.command(_name)(_function)


@app.callback()
def root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
    config: Path | None = typer.Option(None, help="Defaults of flags, one table per command; by default kopt.toml here."),
) -> None:
    """Read the defaults, then run the command."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit
    ctx.default_map = read_config(config)


def read_config(path: Path | None) -> dict[str, Any]:
    """kopt.toml: one table per command, keys are the flags' names.

    Raises:
        UsageError: not TOML, an unknown table, or a named file that is missing.
        FileError: the file cannot be read.
    """
    found = path or Path("kopt.toml")
    if not found.is_file():
        if path is not None:
            raise UsageError(f"there is no configuration file '{path}'", next_step="correct --config")
        return {}
    try:
        content = tomllib.loads(found.read_text())
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not a TOML file: {error}", where=str(found), next_step="correct that line") from None
    except OSError as error:
        raise FileError(f"cannot read the configuration: {error.strerror}", where=str(found)) from None
    for table, flags in content.items():
        if table not in COMMANDS or not isinstance(flags, dict):
            raise UsageError(f"unknown table '{table}'", where=str(found), next_step=f"choose one of: {', '.join(COMMANDS)}")
    return {table: _defaults(table, flags, found) for table, flags in content.items()}


def _defaults(table: str, flags: dict[str, Any], file: Path) -> dict[str, Any]:
    """One table's values under the parameters' names; lists are joined for flags that take "1,8,32".

    Raises:
        UsageError: a key that is no flag of the command.
    """
    known = {parameter.name: parameter for parameter in typer.main.get_command(app).commands[table].params}  # type: ignore[attr-defined]
    result = {}
    for key, value in flags.items():
        parameter = known.get(key.replace("-", "_"))
        if parameter is None or parameter.param_type_name != "option":
            flag_names = sorted(name.replace("_", "-") for name, one in known.items() if one.param_type_name == "option")
            raise UsageError(
                f"unknown key '{key}' in table '{table}'", where=str(file), next_step=f"choose one of: {', '.join(flag_names)}"
            )
        joined = isinstance(value, list) and not parameter.multiple
        result[str(parameter.name)] = ",".join(map(str, value)) if joined else value
    return result


def main() -> None:
    """Entry point: runs a command and turns every error into its message and exit code."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit code."""
    try:
        result = app(args=list(arguments), prog_name="kopt", standalone_mode=False)
    except KoptError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _fail(_usage(error), UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        result = EXIT_INTERRUPTED
    except typer.Exit as error:
        result = error.exit_code
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise  # typer itself ends on a closed pipe, with a code that stands for a failed budget here
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - the reader is gone; the interpreter still flushes at its end
        return 0
    except OSError as error:
        return _fail(
            f"{error.strerror or error}\n  at {error.filename or 'a file'}\n  check the path and the space on the disk", FileError.exit_code
        )
    except Exception as error:  # a defect of kopt: one message, and the place for whoever repairs it
        return _fail(f"internal failure: {type(error).__name__}: {error}\n  at {_place(error)}\n  please report this", KoptError.exit_code)
    if result == EXIT_INTERRUPTED:  # typer itself turns an interrupt inside a command into this code
        return _fail("interrupted; nothing was left half written", EXIT_INTERRUPTED)
    return result if isinstance(result, int) else 0


def _usage(error: typer.TyperException) -> str:
    """What the parser says, the command it says it of, and where its flags are listed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "kopt"
    return f"{error.format_message() or 'a command is missing'}\n  at {command}\n  `{command} --help` lists what there is"


def _place(error: BaseException) -> str:
    """Module and line where an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}" if trace is not None else "an unknown place"


def _fail(message: str, code: int) -> int:
    console = Console(stderr=True, highlight=False)
    first, _, rest = message.partition("\n")
    console.print("error:", style="bold red", end=" ")
    console.print(first, markup=False, soft_wrap=True)
    if rest:
        console.print(rest, markup=False, soft_wrap=True)
    return code
