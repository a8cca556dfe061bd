"""`kopt prune` and `kopt recover`: files, messages, and mistakes told at once."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from kopt.frontend.export import save
from support.transformer import transformer


@pytest.fixture
def kopt(tmp_path, invoked):
    """Runs a command beside a small model; gives exit code, stdout and stderr."""
    rng = np.random.default_rng(0)
    save(transformer(rng), tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", x=rng.normal(size=(64, 5, 12)).astype(np.float32))

    return invoked


def test_prune_then_recover(kopt, tmp_path) -> None:
    code, out, _ = kopt("prune m.onnx -o small.onnx --ratio 0.5 --calib calib.npz")
    assert code == 0
    assert "(heads of 2)" in out
    assert "parameters became" in out
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "m.onnx").stat().st_size
    code, out, _ = kopt("recover small.onnx --teacher m.onnx --calib calib.npz -o good.onnx --budget 6s --json")
    assert code == 0
    report = json.loads(out)
    assert report["error_after"] <= report["error_before"]
    onnx.checker.check_model(str(tmp_path / "good.onnx"))


def test_zeros_are_told_to_be_for_size_only(kopt) -> None:
    code, out, _ = kopt("prune m.onnx -o zeros.onnx --method 2:4")
    assert code == 0
    assert "Size only" in out
    assert json.loads(kopt("prune m.onnx -o zeros.onnx --method unstructured --json")[1])["size_only"] is True


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("prune m.onnx -o a.onnx --ratio 2", 2, "no share of channels"),
        ("prune m.onnx -o a.onnx --latency fast", 2, "'fast' is no latency"),
        ("prune m.onnx -o a.onnx --latency 0.5x --method 2:4", 2, "do not change the latency"),
        ("prune m.onnx -o a.onnx --calib nothing.npz", 74, "nothing.npz"),
        ("prune nothing.onnx -o a.onnx", 74, "nothing.onnx"),
        ("recover m.onnx --teacher m.onnx --calib calib.npz -o a.onnx --budget soon", 2, "soon"),
        ("recover m.onnx --teacher nothing.onnx --calib calib.npz -o a.onnx", 74, "nothing.onnx"),
    ],
)
def test_mistakes(kopt, text: str, code: int, message: str) -> None:
    found, _, err = kopt(text)
    assert found == code, err
    assert message in err
