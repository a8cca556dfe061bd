"""`kopt check` on real artifacts of the digit classifier: unchanged, slower, faster, and what a user gets wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

import kopt
from kopt.check import gate, measure_pairs
from kopt.cli.main import invoke


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits_model):
    """The classifier at batch 8, and one that does much more work for the same answers."""
    folder = tmp_path_factory.mktemp("check")
    kopt.compile(digits_model, output=folder / "digits.kopt", batch=8, measure=False)
    kopt.compile(_slower(onnx.load(digits_model)), output=folder / "slow.kopt", batch=8, measure=False)
    return folder


def _slower(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same answers after a long detour: a product of 300 x 300 matrices that depends on the input and adds nothing."""
    graph = model.graph
    source, output = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.output[:] = ["kopt.inner" if name == output else name for name in node.output]
    weights = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(weights, "extra.w"))
    make = onnx.helper.make_node
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e-30), "extra.scale"))
    graph.node.extend(
        [
            make("ReduceMean", [source], ["extra.mean"], keepdims=0),
            make("Mul", ["extra.w", "extra.mean"], ["extra.a"]),
            make("MatMul", ["extra.a", "extra.a"], ["extra.b"]),
            make("MatMul", ["extra.b", "extra.a"], ["extra.c"]),
            make("ReduceMean", ["extra.c"], ["extra.d"], keepdims=0),
            make("Mul", ["extra.d", "extra.scale"], ["extra.e"]),
            make("Add", ["kopt.inner", "extra.e"], [output]),
        ]
    )
    return model


@pytest.fixture
def check(made, tmp_path, monkeypatch, capsys):
    """Runs `kopt check` in a folder of its own with a short protocol; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    for name in ("digits", "slow"):
        (tmp_path / f"{name}.kopt").symlink_to(made / f"{name}.kopt")
    short = measure_pairs.PairProtocol(processes=2, quads=2, block_s=0.02, warmup_s=0.05)
    monkeypatch.setattr(measure_pairs, "PairProtocol", lambda **limits: replace(short, **limits))
    calm = partial(measure_pairs.measure_process, counters=lambda: measure_pairs.MachineCounters(0, 0, 0))
    monkeypatch.setattr(gate, "measure_process", calm)  # a busy test machine must not decide the verdict

    def run(text: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = invoke(["check", *text.split()])
        return code, *capsys.readouterr()

    return run


def test_an_unchanged_artifact_is_not_measured(check, made) -> None:
    code, out, err = check("digits.kopt --baseline digits.kopt --json r.json")
    assert code == 0, out + err
    assert "unchanged, not measured" in json.loads(Path("r.json").read_text())["results"][0]["note"]
    assert "measuring" not in err


def test_a_slower_artifact_fails_in_every_output(check) -> None:
    Path("budgets.toml").write_text('[[budget]]\nmax_regression = "10 %"\np50 = "10 s"\nartifact_size = "1 KB"\n')
    code, out, err = check(
        "slow.kopt --baseline digits.kopt --budget budgets.toml --junit j.xml --github --json r.json --prometheus p.prom --benchstat b.txt"
    )
    assert code == 1, out + err
    results = {one["key"]: one for one in json.loads(Path("r.json").read_text())["results"]}
    assert {key: one["verdict"] for key, one in results.items()} == {"max_regression": "fail", "p50": "pass", "artifact_size": "fail"}
    assert results["max_regression"]["value"] > 0.1
    assert len(list(ElementTree.parse("j.xml").iter("failure"))) == 2
    assert "::error file=budgets.toml,line=1,title=kopt check::" in out
    assert "❌ fail" in Path("summary.md").read_text(encoding="utf-8")
    assert 'key="max_regression"} 1' in Path("p.prom").read_text()
    assert "/batch=8 " in Path("b.txt").read_text()


def test_a_faster_artifact_passes(check) -> None:
    code, out, err = check("digits.kopt --baseline slow.kopt")
    assert code == 0, out + err


def test_limits_of_other_machines_are_inconclusive(check) -> None:
    Path("budgets.toml").write_text('[[budget]]\nmachine = "another processor"\np99 = "1 s"\n')
    code, out, _ = check("digits.kopt --budget budgets.toml")
    assert code == 3
    assert "another" in out


def test_baselines_are_recorded_when_everything_passed(check) -> None:
    assert check("digits.kopt --baseline stored --update-baseline")[0] == 0
    assert kopt.Artifact.open("stored/digits.kopt").manifest == kopt.Artifact.open("digits.kopt").manifest
    code, out, err = check("digits.kopt --baseline stored --update-baseline")
    assert (code, "unchanged" in out) == (0, True), err
    Path("budgets.toml").write_text('[[budget]]\nartifact_size = "1 KB"\n')
    shutil.rmtree("stored/digits.kopt")
    assert check("digits.kopt --baseline stored --update-baseline --budget budgets.toml")[0] == 1
    assert not Path("stored/digits.kopt").exists()
    assert check("digits.kopt --baseline stored")[0] == 3


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("digits.kopt", 2, "nothing to judge against"),
        ("digits.kopt --budget absent.toml", 74, "absent.toml"),
        ("digits.kopt --budget bad.toml", 2, "bad.toml:2"),
        ("digits.kopt --budget other.toml", 2, "no budget selects"),
        ("digits.kopt --baseline absent", 74, "no baseline 'absent'"),
        ("absent.kopt --baseline digits.kopt", 74, "absent.kopt"),
        ("digits.kopt --baseline digits.kopt --time-limit 0", 2, "--time-limit"),
        ("digits.kopt slow.kopt --baseline digits.kopt --update-baseline", 2, "directory"),
    ],
)
def test_what_a_user_gets_wrong(check, text, code, words) -> None:
    Path("bad.toml").write_text("[[budget]]\np98 = 1\n")
    Path("other.toml").write_text('[[budget]]\nmodel = "other"\np50 = "1 s"\n')
    found, out, err = check(text)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
