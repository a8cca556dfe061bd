"""What ruff cannot say about the source: sizes, docstrings of rules, and calls that have no place in a library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from support.source import Module, modules

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 50
RULE_DECORATORS = {"rule", "layout_rule", "simplifies", "rewrites"}  # what they mark replaces a part of the graph
BANNED_WORDS = {"manager", "helper", "utils", "engine", "handler", "wrapper", "data", "info"}
PASSED_ON = {"XLA_FLAGS"}  # read only to hand the user's own flags to a child process


def each_module() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", [pytest.param(module, id=module.name) for module in modules()])


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of its public classes."""
    stack: list[ast.AST] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node
            stack.extend(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            stack.extend(ast.iter_child_nodes(node))


def is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ()))


def decorator_names(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    called = (decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in node.decorator_list)
    return {decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "") for decorator in called}


@each_module()
def test_files_and_functions_stay_short(module: Module) -> None:
    num_lines = module.text.count("\n")
    assert num_lines <= MAX_FILE_LINES, f"{module.path} has {num_lines} lines"
    long = [
        f"{module.where(node)} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in functions(module.tree)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long, long


@each_module()
def test_public_names_are_documented(module: Module) -> None:
    assert ast.get_docstring(module.tree), f"{module.path} has no docstring"
    missing = [
        f"{module.where(node)} {node.name}"
        for node in public_definitions(module.tree)
        if not ast.get_docstring(node) and not is_overload(node)
    ]
    assert not missing, missing


@each_module()
def test_public_names_say_what_they_are(module: Module) -> None:
    def words(name: str) -> set[str]:
        return set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))

    vague = [f"{module.where(node)} {node.name}" for node in public_definitions(module.tree) if words(node.name) & BANNED_WORDS]
    vague += [module.name] if words(module.name.split(".")[-1]) & BANNED_WORDS else []
    assert not vague, vague


@each_module()
def test_rules_show_what_they_do(module: Module) -> None:
    silent = [
        f"{module.where(node)} {node.name}"
        for node in functions(module.tree)
        if decorator_names(node) & RULE_DECORATORS and "==>" not in (ast.get_docstring(node) or "")
    ]
    assert not silent, silent


@each_module()
def test_no_assert_print_or_hidden_settings(module: Module) -> None:
    wrong = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert):
            wrong.append(f"{module.where(node)} assert")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            wrong.append(f"{module.where(node)} bare except")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "print" and not module.name.startswith("kopt.cli"):
                wrong.append(f"{module.where(node)} print")
            if called.endswith("getenv") or (called.endswith("environ.get") and not reads_passed_on(node)):
                wrong.append(f"{module.where(node)} reads the environment")
            if called.startswith(("pickle.", "marshal.", "cloudpickle.", "dill.")):
                wrong.append(f"{module.where(node)} {called}")
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and ast.unparse(node.value).endswith("os.environ"):
            wrong.append(f"{module.where(node)} reads the environment")
    assert not wrong, wrong


def reads_passed_on(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value in PASSED_ON


@each_module()
def test_nothing_is_left_to_do(module: Module) -> None:
    marks = [
        f"{module.path}:{index}" for index, line in enumerate(module.text.splitlines(), 1) if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line)
    ]
    assert not marks, marks
