"""The command line in processes of its own: interrupts, streams, pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import kopt
from support import graphs

MODEL = "m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kopt", *arguments],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(graphs.model(MODEL), tmp_path / "m.onnx")
    return tmp_path


def interrupted_at(folder: Path, step: str, *arguments: str) -> str:
    """Interrupt the command when its progress names a step; gives the rest of stderr."""
    with start(folder, *arguments) as process:
        for line in process.stderr:
            if line.startswith(step):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "error: interrupted" in err
    return err


def children_left(folder: Path) -> list[str]:
    """Runner processes that serve an artifact in the folder."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if "kopt.runners" in line and str(folder) in line]


@pytest.mark.parametrize("step", ["reading the model", "compiling", "comparing"])
def test_an_interrupt_leaves_no_artifact(folder, step) -> None:
    interrupted_at(folder, step, "compile", "m.onnx", "-o", str(folder / "m.kopt"), "--no-measure")
    assert [entry.name for entry in folder.iterdir()] == ["m.onnx"]
    assert not children_left(folder)


def test_an_interrupt_while_measuring_leaves_a_whole_artifact(folder) -> None:
    interrupted_at(folder, "measuring batch 1", "compile", "m.onnx", "-o", str(folder / "m.kopt"))
    assert sorted(entry.name for entry in folder.iterdir()) == ["m.kopt", "m.onnx"]
    report = json.loads((folder / "m.kopt" / "report.json").read_text())
    assert "latency" not in report["buckets"][0]
    kopt.load(folder / "m.kopt").close()
    assert not children_left(folder)


def test_results_go_to_stdout_and_progress_to_stderr(folder) -> None:
    with start(folder, "compile", "m.onnx", "--no-measure", "--json") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["model"]["num_nodes"] == 1
    assert err.splitlines()[0] == "reading the model"
    assert (folder / "m.kopt").is_dir()


def test_bench_measures_every_batch(folder) -> None:
    arguments = ("bench", "m.onnx", "--runner", "onnxruntime", "--batch", "1,2", "--rounds", "1", "--threads", "1", "--json")
    with start(folder, *arguments) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert [result["shapes"] for result in json.loads(out)] == [{"x": [1, 3]}, {"x": [2, 3]}]


def test_a_reader_that_stops_early_is_no_error(folder) -> None:
    with start(folder, "doctor") as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(timeout=60) == 0
