"""The command line on the shipped model, as a user runs it: in processes, with files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

ENVIRONMENT = {**os.environ, "NO_COLOR": "1", "COLUMNS": "160"}


def kopt(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command and check its exit code; no output may hold a traceback."""
    command = [sys.executable, "-m", "kopt", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def artifact(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "digits.kopt"
    kopt("compile", digits_model, "--target", "cpu", "--batch", "1", "-o", path)
    return path


def test_compile_writes_a_report(artifact: Path) -> None:
    report = json.loads((artifact / "report.json").read_text())
    assert "p50" in json.dumps(report)


def test_run_answers_like_onnxruntime(artifact, digits_model, digits_heldout, tmp_path) -> None:
    image = digits_heldout[0][:1]
    np.savez(tmp_path / "in.npz", image=image)
    kopt("run", artifact, "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as arrays:
        found = arrays["logits"]
    (expected,) = onnxruntime.InferenceSession(digits_model, providers=["CPUExecutionProvider"]).run(None, {"image": image})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_verify_accepts_the_model_and_refuses_another(artifact, digits_model, tmp_path) -> None:
    kopt("verify", artifact, "--against", digits_model)
    model = onnx.load(digits_model)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "dense.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1), "dense.bias"))
    onnx.save(model, tmp_path / "other.onnx")
    kopt("verify", artifact, "--against", tmp_path / "other.onnx", code=4)


def test_inspect_names_the_operators(digits_model) -> None:
    text = kopt("inspect", digits_model).stdout
    assert "Conv" in text
    assert "batch" in text


def test_optimize_folds_and_keeps_the_answers(digits_model, digits_heldout, tmp_path) -> None:
    kopt("optimize", digits_model, "-o", tmp_path / "small.onnx")
    model = onnx.load(tmp_path / "small.onnx")
    onnx.checker.check_model(onnx.load(digits_model))
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    image = digits_heldout[0][:5]
    before, after = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
        for path in (digits_model, tmp_path / "small.onnx")
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("content", "arguments", "code"),
    [
        (None, [], 74),
        (b"", [], 6),
        (b"this is no model", [], 6),
        (b"\x08\x09\x12\x00\x3a\xff\xff\xff\x7f", [], 6),
    ],
    ids=["missing", "empty", "text", "truncated"],
)
def test_bad_files_give_one_clear_error(tmp_path, content, arguments, code) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    done = kopt("compile", path, "-o", tmp_path / "bad.kopt", *arguments, code=code)
    assert "bad.onnx" in done.stderr
    assert not (tmp_path / "bad.kopt").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ([] if content is None else ["bad.onnx"])


def test_usage_errors_exit_with_two(digits_model, tmp_path) -> None:
    kopt("compile", digits_model, "--target", "toaster", "-o", tmp_path / "x.kopt", code=7)
    kopt("compile", digits_model, "--precision", "fp3", "-o", tmp_path / "x.kopt", code=2)
    kopt("no-such-command", code=2)
    assert not (tmp_path / "x.kopt").exists()


def test_a_wrong_input_is_named(artifact, tmp_path) -> None:
    np.savez(tmp_path / "in.npz", picture=np.zeros((1, 1, 8, 8), np.float32))
    done = kopt("run", artifact, "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz", code=2)
    assert "picture" in done.stderr
    assert "image" in done.stderr
