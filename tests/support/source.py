"""The modules of kopt as syntax trees, for tests of layering and style."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"


@dataclass(frozen=True)
class Module:
    """One source file; ``name`` is dotted, a package's own file carries the package's name."""

    path: Path

    @cached_property
    def name(self) -> str:
        parts = self.path.relative_to(SRC).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    def where(self, node: ast.AST) -> str:
        """``file:line``, for messages."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"

    def imports(self) -> Iterator[tuple[str, ast.AST]]:
        """Dotted names of all imported modules, wherever the import stands; ``from a import b`` gives ``a`` or module ``a.b``."""
        for node in ast.walk(self.tree):
            yield from ((name, node) for name in imported_names(node))

    def imports_when_loaded(self) -> Iterator[str]:
        """Modules of kopt that importing this one runs: imports outside of functions and of ``if TYPE_CHECKING``."""
        stack: list[ast.AST] = list(self.tree.body)
        while stack:
            node = stack.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                stack.extend(node.orelse)
                continue
            yield from (name for name in imported_names(node) if name.split(".")[0] == "kopt")
            stack.extend(ast.iter_child_nodes(node))


@lru_cache
def modules() -> tuple[Module, ...]:
    """Every module of the package."""
    return tuple(Module(path) for path in sorted((SRC / "kopt").rglob("*.py")))


def imported_names(node: ast.AST) -> list[str]:
    """The modules an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" if is_module(f"{node.module}.{alias.name}") else node.module for alias in node.names]
    return []


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of kopt."""
    path = SRC.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
