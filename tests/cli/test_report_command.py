"""`kopt report`, and `--html` of compile and bench, on the digit classifier."""

from __future__ import annotations

import json
import re

import pytest

import kopt
from kopt import compiler
from kopt.cli.main import invoke
from kopt.errors import MissingDependencyError
from kopt.measure import Protocol

CHARTS = re.compile(r"const charts = (.*);\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits_model):
    """The classifier, measured in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "Protocol", lambda: Protocol(rounds=5, block_s=1e-3, min_calls=3, warmup_s=1e-3))
        return kopt.compile(digits_model, output=tmp_path_factory.mktemp("report") / "digits.kopt", batch=(1, 2)).path


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def test_a_stored_report_in_every_form(made, folder, capsys) -> None:
    assert invoke(["report", str(made), "--html", "r.html", "--markdown", "r.md"]) == 0
    out = capsys.readouterr().out
    assert "ONNX Runtime p50" in out
    assert "| batch |" in (folder / "r.md").read_text()
    charts = json.loads(CHARTS.search((folder / "r.html").read_text()).group(1))
    assert set(charts) == {"distribution", "percentiles", "throughput", "front", "operators", "roofline"}
    assert invoke(["report", str(made / "report.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["name"] == "digits"


def test_several_reports(made, folder, capsys) -> None:
    (folder / "old.json").write_text((made / "report.json").read_text())
    assert invoke(["report", str(made / "report.json"), "old.json", "--html", "r.html", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    names = {trace["name"] for trace in json.loads(CHARTS.search((folder / "r.html").read_text()).group(1))["throughput"]["data"]}
    assert {"digits.kopt", "old.json"} <= names


def test_compile_writes_the_page_too(folder, digits_model, capsys) -> None:
    assert invoke(["compile", str(digits_model), "-o", "m.kopt", "--no-measure", "--html", "r.html", "--markdown", "r.md"]) == 0
    assert CHARTS.search((folder / "r.html").read_text()).group(1) == "{}"
    assert (folder / "r.md").exists()


def test_bench_writes_the_page_too(made, folder, capsys) -> None:
    assert invoke(["bench", str(made), "--runner", "kopt", "--rounds", "1", "--batch", "1,2", "--html", "r.html"]) == 0
    charts = json.loads(CHARTS.search((folder / "r.html").read_text()).group(1))
    assert set(charts) == {"distribution", "percentiles", "throughput", "front"}


def test_bench_measures_the_backends_beside_each_other(made, folder, capsys) -> None:
    assert invoke(["bench", str(made), "--runner", "kopt,xla,tvm,onnxruntime", "--rounds", "1", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert [one["runner"] for one in result["runners"]] == ["kopt", "xla", "tvm", "onnxruntime"]
    assert all(one["load_s"] > 0 and one["first_s"] > 0 for one in result["runners"])


@pytest.mark.parametrize("command", ["compile", "bench", "report"])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(command, folder, digits_model, monkeypatch, capsys) -> None:
    (folder / "no.json").write_text("{")
    source = "no.json" if command == "report" else str(digits_model)
    assert invoke([command, source, "--html", "nowhere/r.html"]) == 74
    assert "no such folder" in capsys.readouterr().err

    def missing() -> None:
        raise MissingDependencyError("plotly must be installed for HTML", next_step="pip install 'kopt[report]'")

    monkeypatch.setattr("kopt.report.html.require", missing)
    assert invoke([command, source, "--html", "r.html"]) == 7
    assert "pip install" in capsys.readouterr().err


def test_no_report(made, folder, capsys) -> None:
    assert invoke(["report", "gone.kopt"]) == 74
    (folder / "empty.json").write_text("{}")
    assert invoke(["report", "empty.json"]) == 2
    assert "no report of kopt" in capsys.readouterr().err
