"""Commands in this process, as tests of the command line run them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kopt.cli.main import invoke


@pytest.fixture
def invoked(tmp_path, monkeypatch, capsys) -> Callable[[str], tuple[int, str, str]]:
    """Runs a command in a folder of the test's own; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(text: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = invoke(text.split())
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run
