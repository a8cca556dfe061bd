"""Writing a directory so that it appears whole or not at all: temporary sibling, fsync, rename."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from kopt.artifact.blobs import digest_file
from kopt.artifact.manifest import MANIFEST, MANIFEST_DIGEST, Manifest, StoredFile, check_path
from kopt.artifact.read import digest_line, is_artifact
from kopt.errors import FileError, UsageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Staging:
    """An artifact being written; a context manager that leaves nothing behind unless ``commit`` was reached.

    Attributes:
        output: where the artifact will appear.
        files: what has been written so far.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.files: dict[str, StoredFile] = {}
        self._root = output.parent / _partial(output)

    def __enter__(self) -> Staging:
        check_replaceable(self.output)
        with _file_errors(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self.output)
            self._root.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def add(self, path: str, content: Iterable[bytes | memoryview]) -> None:
        """Write one file, given piece by piece.

        Raises:
            FileError: the disk is full, or another failure of the file system.
        """
        target = self._root / check_path(path)
        with _file_errors(self.output):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for piece in content:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            self.files[path] = digest_file(target)

    def take(self, path: str, source: Path, entry: StoredFile) -> None:
        """Take over a file of another artifact.

        A file of the artifact that is being replaced is linked, others are copied: model readers refuse weights that have a
        second name elsewhere.
        """
        target = self._root / check_path(path)
        with _file_errors(self.output):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (source.is_relative_to(self.output) and _linked(target, source)):
                shutil.copyfile(source, target)
                _sync(target)
        self.files[path] = entry

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest and let the artifact appear under its name.

        Raises:
            FileError: the file system refuses.
            UsageError: something that is no artifact has taken the name meanwhile.
        """
        raw = manifest.to_bytes()
        with _file_errors(self.output):
            for name, content in ((MANIFEST, raw), (MANIFEST_DIGEST, digest_line(raw))):
                (self._root / name).write_bytes(content)
                _sync(self._root / name)
            for folder in sorted({target.parent for target in self._root.rglob("*")} | {self._root}, reverse=True):
                _sync(folder)
            check_replaceable(self.output)
            if self.output.exists():
                _exchange(self._root, self.output)
            else:
                self._root.rename(self.output)
            _sync(self.output.parent)


def check_replaceable(output: Path) -> None:
    """Check that nothing but a kopt artifact would be overwritten.

    Raises:
        UsageError: something else is there.
    """
    if output.is_symlink() or (output.exists() and not is_artifact(output)):
        raise UsageError(f"'{output}' exists and is not a kopt artifact", next_step="choose another name with -o, or remove it first")


def check_writable(output: Path) -> None:
    """Check, before any work is done for it, that an artifact can appear at ``output``.

    Raises:
        UsageError: something that is not an artifact is there.
        FileError: the file system refuses; nothing is left behind.
    """
    with _file_errors(output):
        check_replaceable(output)
        folder = next(parent for parent in output.absolute().parents if parent.exists())
        probe = folder / _partial(output)
        probe.mkdir()
        probe.rmdir()


def _partial(output: Path) -> str:
    return f".{output.name}.{os.getpid()}-{secrets.token_hex(4)}.partial"


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories in one step; where the system cannot, in two renames."""
    libc = ctypes.CDLL(None, use_errno=True)
    swap = getattr(libc, "renameat2", None)
    if swap is not None and swap(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
        return
    aside = new.with_suffix(".old")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(output: Path) -> None:
    """Remove what a killed process left when it wrote the same artifact."""
    pattern = re.compile(rf"\.{re.escape(output.name)}\.(\d+)-[0-9a-f]{{8}}\.partial")
    for sibling in output.parent.iterdir():
        found = pattern.fullmatch(sibling.name)
        if found and not _alive(int(found.group(1))):
            shutil.rmtree(sibling, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _linked(target: Path, source: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError:  # the file system has no links
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _file_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        next_step = "free some space" if error.errno == errno.ENOSPC else "check the directory and its permissions"
        raise FileError(f"cannot write the artifact: {error.strerror or error}", where=str(output), next_step=next_step) from error
