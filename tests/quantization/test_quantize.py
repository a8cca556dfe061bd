"""Whole models quantized, run by ONNX Runtime, and what the command line says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import kopt
from kopt.cli.main import invoke
from kopt.errors import UsageError
from kopt.passes.quantize.numbers import snr_db
from support.graphs import model


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


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_raw_units_do_not_vanish(rng: np.random.Generator, tmp_path: Path, precision: str) -> None:
    units = np.float32([1e-2, 1, 3e3, 5])
    w0 = (rng.standard_normal((4, 16)) / units[:, None]).astype(np.float32)
    proto = model("m (float[N,4] x) => (float[N,3] y) { a = Gemm(x, w0, b0)  r = Relu(a)  y = Gemm(r, w1, b1) }")
    held = {"w0": w0, "b0": rng.standard_normal(16), "w1": rng.standard_normal((16, 3)), "b1": rng.standard_normal(3)}
    for name, array in held.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, tmp_path / "m.onnx")
    x = (rng.standard_normal((200, 4)) * units).astype(np.float32)
    kopt.quantize(tmp_path / "m.onnx", {"x": x[:100]}, precision=precision, output=tmp_path / "q.onnx")
    assert snr_db(run(tmp_path / "m.onnx", {"x": x[100:]}), run(tmp_path / "q.onnx", {"x": x[100:]})) > 30


@pytest.mark.parametrize("max_drop", [0.0, 0.5])
def test_a_budget_of_accuracy(digits_model: Path, digits_heldout: tuple[np.ndarray, np.ndarray], max_drop: float) -> None:
    image, label = digits_heldout
    report = kopt.quantize(digits_model, {"image": image[:64], "labels": label[:64]}, precision="auto", max_drop=max_drop).report["auto"]
    assert report["metric"] == "accuracy"
    assert report["drop"] <= max_drop
    assert len(report["front"]) == len(report["sensitivity"]) == 7
    assert all(step["within"] == (step["drop"] <= max_drop) for step in report["front"])
    assert report["time"]["used"] == ("reason" not in report)


def test_a_budget_by_a_metric_of_the_user(digits_model: Path, digits_heldout: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text(
        "def strict(logits):\n    return -abs(logits[0, 0] * 1e6)\n\ndef broken(logits):\n    return 1 / 0\n"
    )
    settings = {"precision": "auto", "max_drop": 0.0}
    feeds = {"image": digits_heldout[0][:16]}
    found = kopt.quantize(digits_model, feeds, metric=f"{tmp_path}/metric.py:strict", **settings)
    assert found.report["auto"]["drop"] <= 0
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        kopt.quantize(digits_model, feeds, metric=f"{tmp_path}/metric.py:broken", **settings)


def test_compile_quantizes_first(digits_model: Path, digits_heldout: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    image, _ = digits_heldout
    artifact = kopt.compile(
        digits_model, precision="int8", calib={"image": image[:40]}, batch=50, output=tmp_path / "a.kopt", measure=False
    )
    assert artifact.report["precision"] == "int8"
    assert artifact.report["quantization"]["num_samples"] == 40
    found = kopt.load(artifact.path).run({"image": image[50:100]})["logits"]
    assert snr_db(run(digits_model, {"image": image[50:100]}), np.asarray(found)) > 30
