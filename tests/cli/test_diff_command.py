"""`kopt diff` on real artifacts and reports of the digit classifier, and what a user gets wrong."""

from __future__ import annotations

import json
import shutil

import pytest

import kopt
from kopt.cli.main import invoke


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits_model):
    """The classifier as compiled twice: for one batch, and for two with another option."""
    folder = tmp_path_factory.mktemp("diff")
    kopt.compile(digits_model, output=folder / "a.kopt", batch=1, measure=False)
    kopt.compile(digits_model, output=folder / "b.kopt", batch=(1, 2), measure=False, options={"conv3x3": "winograd4"})
    return folder


@pytest.fixture
def diff(made, tmp_path, monkeypatch, capsys):
    """Runs `kopt diff` in a folder with both artifacts; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(made / f"{name}.kopt", tmp_path / f"{name}.kopt")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = invoke(["diff", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_two_artifacts(diff, tmp_path) -> None:
    code, out, _ = diff("a.kopt", "b.kopt", "--json", "d.json", "--markdown", "d.md")
    assert code == 0
    assert "winograd4" in out.rpartition("likely reasons")[2]
    content = json.loads((tmp_path / "d.json").read_text())
    assert content["schema"] == 1
    assert content["same_program"] is False
    changed = {(one["section"], one["key"]) for one in content["changes"]}
    assert {("program", "options"), ("program", "batches"), ("program", "artifact_bytes")} <= changed
    assert not {("model", "digest"), ("model", "structure"), ("machine", "cpu")} & changed
    assert "likely reasons" in (tmp_path / "d.md").read_text()


def test_an_artifact_and_itself(diff) -> None:
    code, out, _ = diff("a.kopt", "a.kopt")
    assert code == 0
    assert "nothing differs" in out


def test_report_files(diff, tmp_path) -> None:
    report = json.loads((tmp_path / "a.kopt" / "report.json").read_text())
    report["versions"]["jaxlib"] = "0.9.9"
    (tmp_path / "old.json").write_text(json.dumps(report))
    code, out, _ = diff("old.json", "a.kopt")
    assert code == 0
    assert "1. another compiler: jaxlib 0.9.9 became" in out


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        ("{", 2, "no JSON file"),
        ("[" * 100_000, 2, "no JSON file"),
        ("[1]", 2, "no report of kopt"),
        ('{"schema": 1}', 2, "no report of kopt"),
        ('{"schema": 7, "buckets": []}', 2, "schema 7, this kopt reads 1"),
        ('{"schema": 1, "buckets": [], "precision": NaN}', 2, "no JSON file"),
        ('{"schema": 1, "buckets": []}', 2, "malformed: precision"),
    ],
)
def test_files_that_are_no_report(diff, tmp_path, content, code, text) -> None:
    (tmp_path / "bad.json").write_text(content)
    found, _, err = diff("bad.json", "a.kopt")
    assert found == code
    assert text in err
    assert "bad.json" in err
    assert "Traceback" not in err


def test_nothing_there_and_a_folder_that_is_no_artifact(diff, tmp_path) -> None:
    code, _, err = diff("a.kopt", "gone.kopt")
    assert (code, "'gone.kopt' does not exist" in err) == (74, True)
    (tmp_path / "plain").mkdir()
    assert diff("plain", "a.kopt")[0] == 5
    code, _, err = diff("a.kopt", "b.kopt", "--json", "nowhere/d.json")
    assert (code, "no such folder" in err) == (74, True)
