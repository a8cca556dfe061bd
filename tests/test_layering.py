"""Imports point down the ranks, each compiler is imported in its own backend only, and nothing imports in a circle."""

from __future__ import annotations

import ast
import sys
import tomllib

import pytest

from support.source import ROOT, Module, modules

RANKS = {
    "errors": 0,
    "hardware": 1,
    "ir": 1,
    "measure": 1,
    "once": 1,
    "space": 1,
    "frontend": 2,
    "passes": 2,
    "trial": 2,
    "targets": 3,
    "buckets": 4,
    "calibration": 4,
    "report": 4,
    "specialize": 4,
    "artifact": 5,
    "autotune": 5,
    "recovery": 5,
    "segments": 5,
    "session": 6,
    "onnx_backend": 7,
    "runners": 7,
    "references": 8,
    "latency": 9,
    "candidates": 9,
    "kernel_search": 9,
    "check": 10,
    "quantization": 10,
    "pruning": 10,
    "tune": 10,
    "compiler": 11,
    "cli": 12,
    "__main__": 13,
}

# Which modules may import which third-party packages; a package that is not named here may be imported by none.
ANYWHERE = {"numpy", "ml_dtypes"}
THIRD_PARTY = {
    "PIL": ("kopt.targets.host",),  # Pillow
    "google": ("kopt.frontend",),  # protobuf, whose errors onnx lets through
    "jax": ("kopt.targets.xla", "kopt.targets.mlir", "kopt.targets.lowering", "kopt.targets.kernels", "kopt.recovery"),
    "jaxlib": ("kopt.targets.xla", "kopt.targets.mlir"),
    "onnx": ("kopt.ir.spec", "kopt.frontend", "kopt.targets.reference", "kopt.artifact.write", "kopt.onnx_backend"),
    "onnxruntime": ("kopt.runners",),
    "openvino": ("kopt.runners",),
    "tvm": ("kopt.targets.tvm", "kopt.targets.kernels"),
    "jinja2": ("kopt.report",),
    "jax_tvm_ffi": ("kopt.targets.xla", "kopt.targets.kernels"),
    "platformdirs": ("kopt.session", "kopt.artifact", "kopt.autotune", "kopt.specialize"),
    "plotly": ("kopt.report",),
    "psutil": ("kopt.hardware", "kopt.measure", "kopt.report", "kopt.compiler", "kopt.trial", "kopt.tune", "kopt.cli"),
    "pytest": ("kopt.check.pytest_plugin",),
    "rich": ("kopt.cli", "kopt.report"),
    "ruptures": ("kopt.check.change_points",),
    "optax": ("kopt.recovery",),
    "safetensors": ("kopt.artifact", "kopt.session", "kopt.recovery"),
    "scipy": ("kopt.check",),
    "typer": ("kopt.cli",),
}
# Modules whose import at the end of another only registers rules; they need what stands above it.
REGISTERS_ITSELF = {
    ("kopt.ir.spec", f"kopt.ir.{name}_types")
    for name in ("contrib", "contrib_attention", "contrib_quant", "epilogue", "gradient", "int8", "inverted", "mixed", "ml", "nhwc")
}
BACKENDS = {"reference", "onnxruntime", "xla", "tvm", "mlir", "host"}


def area(name: str) -> str:
    """The file or package below ``kopt`` that a module belongs to; "" for ``kopt`` itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def backend_of(name: str) -> str | None:
    """The backend that a module of ``kopt.targets`` belongs to (``xla_split`` belongs to ``xla``)."""
    parts = name.split(".")
    head = parts[2].split("_")[0] if len(parts) > 2 and parts[1] == "targets" else ""
    return head if head in BACKENDS else None


def in_areas(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a module is one of ``prefixes``, lies below one, or extends its name (``kopt.targets.xla_split``)."""
    return any(name == prefix or name.startswith((prefix + ".", prefix + "_")) for prefix in prefixes)


def is_below(name: str, node: ast.AST, rank: int) -> bool:
    """Whether an imported module of kopt has a lower rank; of the package itself only the version may be read."""
    if not area(name):
        return isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["__version__"]
    return RANKS.get(area(name), 99) < rank


def all_modules() -> list[pytest.param]:
    return [pytest.param(module, id=module.name) for module in modules()]


@pytest.mark.parametrize("module", all_modules())
def test_imports_point_down_the_ranks(module: Module) -> None:
    own = area(module.name)
    if not own:
        return  # the package itself only forwards
    assert own in RANKS, f"kopt.{own} has no rank: give it one in this test and in docs/architecture.md"
    wrong = [
        f"{module.where(node)} imports {name}"
        for name, node in module.imports()
        if name.split(".")[0] == "kopt" and area(name) != own and not is_below(name, node, RANKS[own])
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("module", all_modules())
def test_third_party_packages_stay_in_their_places(module: Module) -> None:
    wrong = []
    for name, node in module.imports():
        package = name.split(".")[0]
        if package == "kopt" or package in ANYWHERE or package in sys.stdlib_module_names:
            continue
        if not in_areas(module.name, THIRD_PARTY.get(package, ())):
            wrong.append(f"{module.where(node)} imports {package}")
    assert not wrong, wrong


@pytest.mark.parametrize(
    "module", [module for module in modules() if module.name.startswith("kopt.targets")], ids=lambda module: module.name
)
def test_backends_never_import_each_other(module: Module) -> None:
    own = backend_of(module.name)
    wrong = [
        f"{module.where(node)} imports {name}"
        for name, node in module.imports()
        if name.startswith("kopt.targets") and backend_of(name) not in (None, own)
    ]
    assert not wrong, wrong


def test_nothing_imports_in_a_circle() -> None:
    edges = {
        module.name: sorted({name for name in module.imports_when_loaded() if (module.name, name) not in REGISTERS_ITSELF} - {module.name})
        for module in modules()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circular import: {' -> '.join((*path[path.index(name) :], name))}"
        if name in done:
            return
        for target in edges.get(name, ()):
            visit(target, (*path, name))
        done.add(name)

    for name in edges:
        visit(name, ())


def test_every_third_party_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["dependencies"] + [one for extra in project["optional-dependencies"].values() for one in extra]
    declared = {one.replace("-", "_").lower().split(">")[0].split("[")[0].split("=")[0].strip() for one in requirements}
    used = {
        name.split(".")[0].replace("google", "protobuf").replace("PIL", "pillow") for module in modules() for name, _ in module.imports()
    }
    undeclared = used - declared - {"kopt"} - set(sys.stdlib_module_names) - {"tvm", "jax_tvm_ffi"}
    assert not undeclared, undeclared
