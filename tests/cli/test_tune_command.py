"""`kopt tune`: mistakes are told at once, and the search is shown."""

from __future__ import annotations

import io
import json

import onnx
import pytest
from rich.console import Console

from kopt.cli.tune_command import show_search
from support import fake_programs, graphs

MODEL = "m (float[N,3] x) => (float[N,3] y) { a = Identity(x) y = Relu(a) }"
SEARCH = {
    "chosen": {"program": "xla", "threads": 2},
    "failures": {"crash": 2, "wrong": 1},
    "from_database": False,
    "trials": [{}] * 7,
    "seconds": 61.2,
    "race": [{"config": {"program": "xla"}, "ratio": 1.0}, {"config": {"program": "onnx"}, "ratio": 1.25}],
    "batches": [{"batch": 8, "p50_us": 2000.0, "throughput_per_s": 4000.0, "pareto": True, "knee": True}],
}


@pytest.fixture
def kopt(tmp_path, invoked):
    """Runs a command beside a small model; gives exit code, stdout and stderr."""
    onnx.save(graphs.model(MODEL), tmp_path / "m.onnx")

    return invoked


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("tune m.onnx", 2, "budget"),
        ("tune m.onnx --budget soon", 2, "not a duration"),
        ("tune m.onnx --budget 1s --objective speed", 2, "unknown objective"),
        ("tune m.onnx --budget 1s --precision fp32,fp7", 2, "unknown precision 'fp7'"),
        ("tune m.onnx --budget 1s --batch few", 2, "not a list of batches"),
        ("tune m.onnx --budget 1s --threads 0", 2, "threads"),
        ("tune no.onnx --budget 1s --db t.db", 74, "no.onnx"),
        ("compile m.onnx --batch auto", 2, "needs a search"),
        ("compile m.onnx --budget 1s --target cuda", 2, "needs the device at hand"),
    ],
)
def test_mistakes(kopt, text, code, words) -> None:
    found, _, err = kopt(text)
    assert (found, words in err) == (code, True), err


def test_a_search_from_the_command_line(kopt, monkeypatch) -> None:
    fake_programs.install(monkeypatch.setattr)
    code, out, err = kopt("tune m.onnx --budget 1s --db t.db -o m.kopt --no-measure --json")
    assert code == 0, err
    assert "tuning: trial 1 measured, best" in err
    assert json.loads(out)["search"]["chosen"]["threads"]
    code, out, _ = kopt("tune m.onnx --budget 1s --db t.db -o again.kopt --no-measure")
    assert (code, "known from the database" in out) == (0, True)


def test_what_is_shown_of_a_search() -> None:
    text = io.StringIO()
    show_search(SEARCH, Console(file=text, width=120))
    shown = text.getvalue()
    for words in ("7 trials in 61 s, failed: 2 crash, 1 wrong", "program=xla threads=2", "program=onnx", "1.250", "pareto knee", "2 ms"):
        assert words in shown, shown
