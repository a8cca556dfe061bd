"""Compiles a program: ``python -m kopt.targets.tvm_build REQUEST.json LIBRARY.so``, started by the backend.

The request holds the pieces of the program by name, and the C source that calls them in order.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tvm

from kopt.targets.kernels.build import NESTS, lowered
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
        functions[name] = emit(revived(described, fields), name, request["lanes"])
    llvm = tvm.target.Target({"kind": "llvm", **({"mcpu": request["cpu"]} if request["cpu"] else {})})
    objects, calls = library.with_suffix(".o"), library.with_suffix(".c")
    with llvm:
        module = lowered(tvm.IRModule(functions), llvm)
        tvm.get_global_func("target.build.llvm")(module, llvm).write_to_file(str(objects), "o")
    calls.write_text(request["source"])
    command = [request["linker"], "-O2", "-fPIC", "-shared", "-pthread", str(calls), str(objects), "-lm", "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        sys.exit(f"{request['linker']}: {lines[0] if lines else f'ended with {done.returncode}'}")


def revived(described: type, fields: Mapping[str, Any]) -> Any:
    """The dataclass that ``asdict`` and JSON made plain."""
    hints = get_type_hints(described)
    return described(**{name: _value(hints[name], value) for name, value in fields.items()})


def _value(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        return revived(hint, value)
    if get_origin(hint) is tuple and isinstance(value, list):
        inner = get_args(hint)[0]
        return tuple(_value(inner, one) for one in value)
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
