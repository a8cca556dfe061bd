"""Files of an artifact: opened without following links, mapped, hashed in blocks on several threads."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kopt.artifact.manifest import BLOCK_BYTES, StoredFile
from kopt.errors import CorruptArtifactError, FileError
from kopt.hardware import available_cores

_RESTORE = "restore the artifact from where it came, or compile the model again"


def map_file(path: Path, limit: int) -> memoryview:
    """The bytes of a regular file, mapped read-only.

    Raises:
        CorruptArtifactError: missing, a link, no regular file, or larger than ``limit`` bytes.
        FileError: the system refuses to read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CorruptArtifactError("a file of the artifact is missing", where=str(path), next_step=_RESTORE) from None
    except OSError as error:
        if path.is_symlink():
            raise CorruptArtifactError("a file of the artifact is a symbolic link", where=str(path), next_step=_RESTORE) from error
        raise FileError(f"cannot read: {error.strerror}", where=str(path), next_step="check the file's permissions") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptArtifactError("not a regular file", where=str(path), next_step=_RESTORE)
        if status.st_size > limit:
            what = f"{status.st_size} bytes where at most {limit} are expected"
            raise CorruptArtifactError(what, where=str(path), next_step=_RESTORE)
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ))
    except OSError as error:
        raise FileError(f"cannot read: {error.strerror}", where=str(path), next_step="check the file system") from error
    finally:
        os.close(descriptor)


def open_verified(root: Path, files: Mapping[str, StoredFile]) -> dict[str, memoryview]:
    """Map every listed file and check its size and digests, blocks in parallel.

    Raises:
        CorruptArtifactError: a file is missing, altered, a link, or not listed.
    """
    _refuse_unlisted(root, files)
    mapped = {path: map_file(root / path, entry.size) for path, entry in files.items()}
    blocks: list[tuple[str, memoryview, str]] = []
    for path, entry in files.items():
        content = mapped[path]
        if len(content) != entry.size:
            what = f"{len(content)} bytes where {entry.size} are expected"
            raise CorruptArtifactError(what, where=str(root / path), next_step=_RESTORE)
        blocks.extend((path, block, digest) for block, digest in zip(_blocks(content), entry.sha256, strict=True))
    for (path, _, expected), found in zip(blocks, _digests(block for _, block, _ in blocks), strict=True):
        if found != expected:
            what = f"'{path}' was altered: sha256 {found[:16]}... where {expected[:16]}... is expected"
            raise CorruptArtifactError(what, where=str(root), next_step=_RESTORE)
    return mapped


def digest(content: bytes | memoryview) -> StoredFile:
    """Size and block digests of ``content``."""
    view = memoryview(content)
    return StoredFile(len(view), tuple(_digests(_blocks(view))))


def digest_file(path: Path) -> StoredFile:
    """Size and block digests of a file, read block by block so that a large one takes no memory."""
    size, digests = 0, []
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            size += len(block)
            digests.append(hashlib.sha256(block).hexdigest())
    return StoredFile(size, tuple(digests) or (hashlib.sha256(b"").hexdigest(),))


def _blocks(content: memoryview) -> Iterator[memoryview]:
    for start in range(0, max(1, len(content)), BLOCK_BYTES):
        yield content[start : start + BLOCK_BYTES]


def _digests(blocks: Iterable[memoryview]) -> list[str]:
    """sha256 of each block; hashlib releases the interpreter lock, so threads use all cores."""
    held = list(blocks)
    if sum(map(len, held)) <= BLOCK_BYTES:
        return [_sha256(block) for block in held]
    with ThreadPoolExecutor(min(8, available_cores()), thread_name_prefix="kopt-hash") as pool:
        return list(pool.map(_sha256, held))


def _sha256(block: memoryview) -> str:
    return hashlib.sha256(block).hexdigest()


def _refuse_unlisted(root: Path, files: Mapping[str, StoredFile]) -> None:
    """Every directory entry must be a listed file or a directory on the way to one; links are refused anywhere."""
    folders = {str(parent) for path in files for parent in Path(path).parents} | {"."}
    pending = ["."]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            raise FileError(f"cannot read: {error.strerror}", where=str(root / folder), next_step="check its permissions") from error
        for entry in entries:
            path = entry.name if folder == "." else f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False) and path in folders:
                pending.append(path)
            elif entry.is_symlink() or (path not in files and path not in _UNLISTED):
                kind = "a symbolic link" if entry.is_symlink() else "not listed in the manifest"
                raise CorruptArtifactError(f"'{path}' is {kind}", where=str(root), next_step=_RESTORE)


_UNLISTED = ("manifest.json", "manifest.sha256")
