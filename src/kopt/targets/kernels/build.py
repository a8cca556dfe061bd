"""Compiles kernels: ``python -m kopt.targets.kernels.build REQUEST.json LIBRARY.so``, started by ``library.build_library``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tvm
from tvm import tirx

from kopt.errors import ToolchainError
from kopt.targets.kernels.attention import Attention
from kopt.targets.kernels.attention_nest import emit_attention
from kopt.targets.kernels.conv import Conv, Depthwise
from kopt.targets.kernels.conv_nest import emit_conv
from kopt.targets.kernels.depthwise_nest import emit_depthwise
from kopt.targets.kernels.inverted import InvertedResidual
from kopt.targets.kernels.inverted_nest import emit_inverted
from kopt.targets.kernels.kernel import Kernel
from kopt.targets.kernels.narrow import Bf16Product, Int8Product
from kopt.targets.kernels.narrow_conv import Bf16Conv, Int8Conv
from kopt.targets.kernels.narrow_nest import emit_narrow_conv, emit_narrow_product
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.product_nest import emit_product
from kopt.targets.kernels.strassen import Strassen
from kopt.targets.kernels.strassen_nest import emit_strassen
from kopt.targets.kernels.winograd import Winograd
from kopt.targets.kernels.winograd_nest import emit_winograd

MIN_SHARED = 1 << 20
"""Kernels of fewer multiplications run on the calling thread: waking another takes longer. Source: 5 us at 200 GFLOP/s, about a wake-up."""

NESTS: dict[str, tuple[type, Callable[..., Any]]] = {
    "Product": (Product, emit_product),
    "Strassen": (Strassen, emit_strassen),
    "Conv": (Conv, emit_conv),
    "Depthwise": (Depthwise, emit_depthwise),
    "Winograd": (Winograd, emit_winograd),
    "Attention": (Attention, emit_attention),
    "InvertedResidual": (InvertedResidual, emit_inverted),
    "Int8Product": (Int8Product, emit_narrow_product),
    "Bf16Product": (Bf16Product, emit_narrow_product),
    "Int8Conv": (Int8Conv, emit_narrow_conv),
    "Bf16Conv": (Bf16Conv, emit_narrow_conv),
}


def main(source: Path, library: Path) -> None:
    """Compile what the request at ``source`` asks for into ``library``."""
    try:
        compile_library(json.loads(source.read_text()), library)
    except ToolchainError as error:
        sys.exit(str(error))


def revived(kind: str, fields: Mapping[str, Any]) -> Kernel:
    """The kernel that ``asdict`` and JSON made plain."""
    kernel: Kernel = revived_as(NESTS[kind][0], fields)
    return kernel


def compile_library(request: Mapping[str, Any], library: Path) -> None:
    """Compile the kernels of a request (see ``library.request_of``) into a shared library.

    Raises:
        ToolchainError: the linker failed.
    """
    kernels, functions = {}, {}
    for name, kind, fields in request["kernels"]:
        described, emit = NESTS[kind]
        kernels[name] = revived_as(described, fields)
        functions[_body(name)] = emit(kernels[name], _body(name), request["lanes"])
    flags = ["-I", str(_headers())]
    link(request, functions, _handlers(kernels), library, flags)


def link(request: Mapping[str, Any], functions: Mapping[str, Any], source: str, library: Path, flags: Sequence[str]) -> None:
    """Functions compiled by LLVM, linked with C code that calls them.

    Raises:
        ToolchainError: the linker failed.
    """
    llvm = tvm.target.Target({"kind": "llvm", **({"mcpu": request["cpu"]} if request["cpu"] else {}), "mattr": request["features"]})
    objects, calls = library.with_suffix(".o"), library.with_suffix(".c")
    with llvm:
        module = lowered(tvm.IRModule(functions), llvm)
        tvm.get_global_func("target.build.llvm")(module, llvm).write_to_file(str(objects), "o")
    calls.write_text(source)
    command = [request["linker"], "-O2", "-fPIC", "-shared", str(calls), str(objects), *flags, "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise ToolchainError(f"{request['linker']}: {lines[0] if lines else f'ended with {done.returncode}'}")


def revived_as(described: type, fields: Mapping[str, Any]) -> Any:
    """The dataclass that ``asdict`` and JSON made plain."""
    hints = get_type_hints(described)
    return described(**{name: _value(hints[name], value) for name, value in fields.items()})


def _value(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        return revived_as(hint, value)
    if get_origin(hint) is tuple and isinstance(value, list):
        inner = get_args(hint)[0]
        return tuple(_value(inner, one) for one in value)
    return tuple(value) if isinstance(value, list) else value


def lowered(module: Any, llvm: Any) -> Any:
    """TVM's CPU pipeline without the packed calling convention: kernels are called with pointers."""
    passes = (
        tirx.transform.BindTarget(llvm),
        tirx.transform.StmtSimplify(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        tirx.transform.LowerIntrin(),
    )
    return tvm.transform.Sequential(passes)(module)


def _body(name: str) -> str:
    return f"{name}_body"


def _headers() -> Path:
    """Where jaxlib keeps the headers of XLA's call interface; found without importing it."""
    spec = find_spec("jaxlib")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("jaxlib is not installed")
    return Path(next(iter(spec.submodule_search_locations)), "include")


def _handlers(kernels: Mapping[str, Kernel]) -> str:
    """C source of one handler per kernel, after the launcher they share."""
    parts = [files("kopt.targets.kernels").joinpath("launch.c").read_text()]
    for name, kernel in kernels.items():
        count = len(kernel.operands)
        pointers = ", ".join(["void*"] * (count + 1))
        given = ", ".join(f"b[{position}]" for position in range(count + 1))
        parts.append(
            f"extern int {_body(name)}({pointers}, int);\n"
            f"static void {name}_task(void** b, int task) {{ {_body(name)}({given}, task); }}\n"
            f"XLA_FFI_Error* {name}(XLA_FFI_CallFrame* frame) {{\n"
            f"  return kopt_launch(frame, {name}_task, {count}, {kernel.num_tasks}, {int(kernel.multiplies >= MIN_SHARED)});\n}}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
