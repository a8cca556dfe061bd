"""What sessions compile themselves: kept in memory while it is used, and on disk for the next process.

Entries are keyed by content (artifact, recipe, shapes, compiler version, hardware) and checked by digest before their native code
is loaded. The directory belongs to the user and is bounded; what cannot be written is simply compiled again next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kopt.artifact import tensors
from kopt.artifact.blobs import digest, map_file
from kopt.artifact.manifest import parse_signature, signature_json
from kopt.errors import KoptError
from kopt.targets.base import Signature

MAX_BYTES = 4 << 30
_SUFFIX = ".program"
_CODE = "kopt.code"
_ABOUT = "kopt.about"
_DIGEST_BYTES = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedProgram:
    """Native code with the weights it takes.

    Attributes:
        code: native code of the backend.
        signature: the inputs it takes and outputs it gives.
        order: (name in the program, tensor of the artifact it is, or "" where it lies in ``own``), in argument order.
        backend: whose code it is.
        own: weights that the artifact does not hold, by name in the program.
    """

    code: bytes
    signature: Signature
    order: tuple[tuple[str, str], ...] = ()
    own: Mapping[str, np.ndarray] = field(default_factory=dict)
    backend: str = "xla"


class ProgramCache:
    """A directory of compiled programs, bounded in bytes; the least recently used are removed first."""

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    @property
    def folder(self) -> Path:
        """Where entries lie; by default in the user's cache directory."""
        if self._folder is None:
            import platformdirs

            self._folder = platformdirs.user_cache_path("kopt", appauthor=False) / "programs"
        return self._folder

    def get(self, key: str) -> CachedProgram | None:
        """The entry, None when there is none or it was altered (then it is removed)."""
        path = self.folder / f"{key}{_SUFFIX}"
        try:
            if not self._trusted() or not path.is_file():
                return None
            content = map_file(path, self._max_bytes)
            body, stated = content[:-_DIGEST_BYTES], bytes(content[-_DIGEST_BYTES:])
            if _checksum(body) != stated:
                _log.warning("%s was altered; it is removed and compiled again", path)
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
            return _unpack(body, str(path))
        except (OSError, KoptError, ValueError, KeyError, TypeError) as error:
            _log.warning("cannot read %s (%s); compiling again", path, error)
            return None

    def put(self, key: str, program: CachedProgram) -> None:
        """Store an entry; a failure is logged and otherwise ignored."""
        packed = _pack(program)
        placed = tensors.layout(packed)
        if placed.num_bytes + _DIGEST_BYTES > self._max_bytes:
            return
        partial = self.folder / f".{key}.{secrets.token_hex(4)}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._trusted():
                return
            with partial.open("wb") as file:
                for piece in tensors.pieces(packed, placed):
                    file.write(piece)
                file.flush()
                checksum = _checksum(map_file(partial, placed.num_bytes))
                file.write(checksum)
            partial.replace(self.folder / f"{key}{_SUFFIX}")
            self._evict()
        except (OSError, KoptError) as error:
            _log.warning("cannot keep a compiled program in %s: %s", self.folder, error)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _evict(self) -> None:
        """Remove the least recently used entries beyond the bound."""
        found = [(path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.folder.glob(f"*{_SUFFIX}")]
        excess = sum(size for _, size, _ in found) - self._max_bytes
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _trusted(self) -> bool:
        """Whether the directory is the user's own: native code of others is never loaded."""
        if not self.folder.is_dir():
            return False
        owner = self.folder.stat()
        if owner.st_uid == os.getuid() and not owner.st_mode & 0o022:
            return True
        _log.warning("%s can be written by others; it is not used", self.folder)
        return False


def _checksum(content: memoryview) -> bytes:
    return hashlib.sha256("".join(digest(content).sha256).encode()).digest()


def _pack(program: CachedProgram) -> dict[str, np.ndarray]:
    about = {"backend": program.backend, "order": [list(pair) for pair in program.order], "signature": signature_json(program.signature)}
    return {
        _ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8),
        _CODE: np.frombuffer(program.code, np.uint8),
        **{f"w.{name}": array for name, array in program.own.items()},
    }


def _unpack(body: memoryview, where: str) -> CachedProgram:
    held = tensors.read(body, where)
    about = json.loads(held[_ABOUT].tobytes())
    order = tuple((str(name), str(tensor)) for name, tensor in about["order"])
    own = {name[2:]: array for name, array in held.items() if name.startswith("w.")}
    return CachedProgram(
        held[_CODE].tobytes(), parse_signature(about["signature"], static=False), order, own, str(about.get("backend", "xla"))
    )
