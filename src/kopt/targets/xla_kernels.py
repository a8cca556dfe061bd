"""Native code of XLA programs that call kernels: the kernels' library travels in front of XLA's own bytes.

::

    "KOPTKERN" | length of the header, u32 | {"symbols": [...], "library": bytes of the library} | library | XLA's code

A program without kernels is XLA's code alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kopt.errors import ToolchainError
from kopt.hardware import Target

_MAGIC = b"KOPTKERN"


@dataclass(frozen=True)
class KernelLibrary:
    """Compiled kernels.

    Attributes:
        symbols: names under which programs call them.
        library: the shared library.
    """

    symbols: tuple[str, ...]
    library: bytes

    def register(self) -> None:
        """Make the kernels known to XLA in this process.

        Raises:
            ToolchainError: the library cannot be loaded here.
        """
        from kopt.targets.kernels.calls import register

        register(self.symbols, self.library)


def build(kernels: Mapping[str, Any], target: Target) -> KernelLibrary | None:
    """The kernels compiled, None when there are none.

    Raises:
        MissingDependencyError: no C compiler is there to link with.
        ToolchainError: a compiler failed.
    """
    if not kernels:
        return None
    from kopt.targets.kernels.library import build_library

    return KernelLibrary(tuple(kernels), build_library(kernels, target))


def join(kernels: KernelLibrary | None, code: bytes) -> bytes:
    """One blob of kernels and XLA's code."""
    if kernels is None or not code:
        return code
    header = json.dumps({"symbols": list(kernels.symbols), "library": len(kernels.library)}).encode()
    return b"".join((_MAGIC, struct.pack("<I", len(header)), header, kernels.library, code))


def separate(blob: bytes) -> tuple[KernelLibrary | None, bytes]:
    """What ``join`` put together.

    Raises:
        ToolchainError: the blob is damaged.
    """
    if not blob.startswith(_MAGIC):
        return None, blob
    try:
        start = len(_MAGIC) + 4
        (length,) = struct.unpack("<I", blob[len(_MAGIC) : start])
        header = json.loads(blob[start : start + length])
        symbols, size = header["symbols"], header["library"]
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged() from error
    if not _are_names(symbols) or type(size) is not int or not 0 < size < len(blob) - start - length:
        raise _damaged()
    end = start + length + size
    return KernelLibrary(tuple(symbols), blob[start + length : end]), blob[end:]


def _damaged() -> ToolchainError:
    return ToolchainError("the stored kernels are damaged", next_step="compile the model again")


def _are_names(symbols: Sequence[Any]) -> bool:
    return isinstance(symbols, list) and len(symbols) > 0 and all(isinstance(name, str) and name.isidentifier() for name in symbols)
