"""Compiles a program: ``python -m kopt.targets.tvm_build REQUEST.json LIBRARY.so``, started by the backend.

The request holds the pieces of the program by name, and the C source that calls them in order.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kopt.errors import ToolchainError
from kopt.targets.kernels.build import NESTS, link, revived_as
from kopt.targets.tvm_loops import Batched, Map, Reduce, RowNorm, Rows, Window
from kopt.targets.tvm_nest import emit_map, emit_reduce, emit_rows
from kopt.targets.tvm_row_nest import emit_batched, emit_row_norm, emit_window

_NESTS: dict[str, tuple[type, Callable[..., Any]]] = {
    **NESTS,
    "Map": (Map, emit_map),
    "Reduce": (Reduce, emit_reduce),
    "RowNorm": (RowNorm, emit_row_norm),
    "Window": (Window, emit_window),
    "Rows": (Rows, emit_rows),
    "Batched": (Batched, emit_batched),
}


def main(source: Path, library: Path) -> None:
    """Compile what the request at ``source`` asks for into ``library``."""
    request = json.loads(source.read_text())
    functions = {}
    for name, kind, fields in request["pieces"]:
        described, emit = _NESTS[kind]
        functions[name] = emit(revived_as(described, fields), name, request["lanes"])
    try:
        link(request, functions, request["source"], library, ["-pthread", "-lm"])
    except ToolchainError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
