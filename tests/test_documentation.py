"""The documentation names what exists: commands, files, and the two commands of the README."""

from __future__ import annotations

import re
import shlex

import pytest

from kopt.cli.main import COMMANDS
from support.source import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_command_is_described() -> None:
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/cli.md", "README.md")]
    for command in COMMANDS:
        assert all(f"kopt {command}" in page for page in pages), command
    for page in pages:
        assert set(re.findall(r"`kopt ([a-z]+)", page)) <= set(COMMANDS)


def test_the_readme_has_its_two_commands() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = [block.strip() for block in blocks if "-m venv" in block]
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    model = next(word for word in shlex.split(commands[0]) if word.endswith(".onnx"))
    assert (ROOT / model).stat().st_size < 1_000_000
    assert commands[1].endswith("-m pytest")
