"""Whole models quantized, run by ONNX Runtime, and what the command line says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import kopt
from kopt.cli.main import invoke
from kopt.errors import UsageError
from kopt.passes.quantize.numbers import snr_db


def run(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def test_digits_in_static_int8(digits_model: Path, digits_heldout: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    image, label = digits_heldout
    result = kopt.quantize(digits_model, {"image": image[:100]}, output=tmp_path / "q.onnx")
    exact, found = run(digits_model, {"image": image[100:]}), run(tmp_path / "q.onnx", {"image": image[100:]})
    assert (found.argmax(1) != label[100:]).sum() <= (exact.argmax(1) != label[100:]).sum() + 1
    assert snr_db(exact, found) > 30
    assert result.report["outputs"]["logits"]["snr_db"] > 30
    assert result.report["num_samples"] == 100
    assert result.report["bytes"][1] < result.report["bytes"][0] / 3
    assert (tmp_path / "q.onnx").stat().st_size < digits_model.stat().st_size / 2


def test_the_command(
    digits_model: Path, digits_heldout: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "c.npz", image=digits_heldout[0][:20])
    arguments = ["quantize", str(digits_model), "-o", str(tmp_path / "q.onnx"), "--calib", str(tmp_path / "c.npz")]
    assert invoke([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"]["logits"]["rows"] == 20
    assert invoke(arguments[:4]) == 2
    assert "needs inputs" in capsys.readouterr().err


def test_unknown_precision(digits_model: Path) -> None:
    with pytest.raises(UsageError, match="int7"):
        kopt.quantize(digits_model, precision="int7")
