"""What several commands share: parsing of flags, progress on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from kopt.errors import FileError, UsageError


def stdout() -> Console:
    """Where results go; as wide as the terminal, at least 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def parse_batches(text: str | None) -> tuple[int, ...] | None:
    """``"1,8,32"`` as numbers.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in str(text).split(","))
    except ValueError:
        raise UsageError(f"'{text}' is not a list of batches", next_step="write for instance --batch 1,8,32") from None


def parse_shapes(items: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """``["x:1x3x224x224"]`` by input name; the name may hold colons.

    Raises:
        UsageError: anything else.
    """
    shapes = {}
    for item in items or ():
        name, separator, dims = item.rpartition(":")
        try:
            shapes[name] = tuple(int(dim) for dim in dims.split("x")) if dims else ()
        except ValueError:
            separator = ""
        if not separator or not name or any(dim < 0 for dim in shapes.get(name, ())):
            raise UsageError(f"'{item}' is not a shape", next_step="write for instance --shape image:1x3x224x224")
    return shapes


def one_batch(text: str | None) -> tuple[int, ...] | None:
    """``"8"`` as a single batch, for commands that lower one program.

    Raises:
        UsageError: several batches, or anything else.
    """
    batches = parse_batches(text)
    if batches is not None and len(batches) > 1:
        raise UsageError(f"'{text}' names several batches", next_step="one program is written at a time; give a single --batch")
    return batches


def check_threads(threads: int | None) -> None:
    """Refuse thread counts below one.

    Raises:
        UsageError: zero or negative.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads are not possible", next_step="give at least 1")


def check_folder(path: Path) -> None:
    """Refuse, before any work is done, a result that could not be written afterwards.

    Raises:
        FileError: the folder is absent, or the path is a folder itself.
    """
    if path.is_dir():
        raise FileError("cannot write: Is a directory", where=str(path), next_step="give the path of a file")
    if not path.parent.is_dir():
        raise FileError("cannot write: there is no such folder", where=str(path), next_step=f"create {path.parent} first")


def select_inputs(given: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays that are inputs. What is beside a complete set (labels, say) is left out and named on stderr.

    An incomplete set is returned as it is, so that the error about it names what is missing beside what was given instead.
    """
    extra = [name for name in given if name not in names]
    if not set(names) <= set(given):
        return dict(given)
    if extra:
        Console(stderr=True).print(f"not an input, left out: {', '.join(extra)}", highlight=False, markup=False)
    return {name: given[name] for name in names}


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A bar on stderr that says what is being done; plain lines where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: console.print(text, style=None, highlight=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20, pulse_style="cyan"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda text: bar.update(task, description=text)


def print_json(content: Any) -> None:
    """A result as JSON on stdout."""
    Console(soft_wrap=True).out(json.dumps(content, indent=2), highlight=False)


def read_report(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The report of an artifact with its manifest in JSON types, or of a report.json without one.

    Raises:
        FileError: nothing is there, or it cannot be read.
        UsageError: no report, or a malformed one.
        ArtifactError: a damaged artifact.
    """
    from kopt.artifact.read import Artifact
    from kopt.report.stored import check

    if path.is_dir() or not path.exists():
        artifact = Artifact.open(path)
        report = check(artifact.report, str(path)) if artifact.report else {}
        return report, json.loads(artifact.manifest.to_bytes())
    try:
        content = json.loads(path.read_bytes(), parse_constant=_no_number)
    except OSError as error:
        raise FileError(f"cannot read: {error.strerror}", where=str(path), next_step="check the path") from None
    except (ValueError, RecursionError):
        raise UsageError("this is no JSON file", where=str(path), next_step="give an artifact, or the report.json inside one") from None
    return check(content, str(path)), None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def check_html(path: Path | None) -> None:
    """Refuse, before any work is done, an HTML report that could not be made or written afterwards.

    Raises:
        MissingDependencyError: plotly or Jinja2 is not installed.
        FileError: the folder is absent, or the path is a folder itself.
    """
    if path is not None:
        from kopt.report import html

        check_folder(path)
        html.require()


def write_html(path: Path, reports: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Reports, each with its name, as one HTML file.

    Raises:
        MissingDependencyError: plotly or Jinja2 is not installed.
        FileError: the folder cannot be written.
    """
    from kopt.report.html import render
    from kopt.report.page import of_reports
    from kopt.report.points import Source

    write_text(path, render(of_reports([Source(name, report) for name, report in reports])))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Named arrays of an .npz file; pickles are refused.

    Raises:
        FileError: missing or unreadable.
        UsageError: not an .npz of plain arrays.
    """
    if not path.is_file():
        raise FileError("there is no such file of inputs", where=str(path), next_step="give an .npz with one array per input")
    try:
        with path.open("rb") as file:  # numpy leaves a file open that it opened itself and cannot read
            stored = np.load(file, allow_pickle=False)
            if not hasattr(stored, "files"):
                raise UsageError(
                    "the inputs are a single array, not an .npz", where=str(path), next_step="save them with numpy.savez(path, NAME=array)"
                )
            with stored:
                return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"the inputs cannot be read: {error}", where=str(path), next_step="save them with numpy.savez") from None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file, whole or not at all.

    Raises:
        FileError: the folder cannot be written.
        UsageError: an array of Python objects, such as strings.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".npz", delete=False) as file:
            part = Path(file.name)
            try:
                with zipfile.ZipFile(file, "w") as archive:  # numpy.savez takes no array named "file"
                    for name, array in arrays.items():
                        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                            np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
                _publish(part, path)
            except BaseException:
                part.unlink()
                raise
    except ValueError as error:
        raise UsageError(f"the outputs are no plain arrays: {error}", where=str(path), next_step="leave out --output") from None
    except OSError as error:
        raise FileError(f"cannot write: {error.strerror or error}", where=str(path), next_step="check the folder and its space") from None


def _publish(part: Path, path: Path) -> None:
    """Give a finished file its name, and the permissions a plainly written file has: temporary ones are private."""
    mask = os.umask(0)
    os.umask(mask)
    part.chmod(0o666 & ~mask)
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all.

    Raises:
        FileError: the folder cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            part = Path(file.name)
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                _publish(part, path)
            except BaseException:
                part.unlink()
                raise
    except OSError as error:
        raise FileError(f"cannot write: {error.strerror or error}", where=str(path), next_step="check the folder and its space") from None
