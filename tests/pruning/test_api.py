"""Pruning whole models: sizes, options, and files that ONNX Runtime runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from kopt.errors import UsageError
from kopt.pruning import prune

MODELS = Path(__file__).parents[2] / "benchmarks" / "compression" / "models"


def images(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(size=(count, 1, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("name", ["residual", "plain", "depthwise"])
def test_half_of_the_channels(name: str, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    pruned = prune(str(MODELS / f"digits_{name}.onnx"), path, ratio=0.5, calib={"image": images(40)})
    before, after = pruned.report["parameters"]
    assert after < 0.32 * before
    assert all(group["after"] == pytest.approx(group["before"] / 2, abs=4) for group in pruned.report["groups"])
    session = ort.InferenceSession(path)
    for batch in (1, 3):
        assert session.run(None, {"image": images(batch)})[0].shape == (batch, 10)


def test_weights_that_are_rebuilt_lose_less() -> None:
    path = str(MODELS / "digits_plain.onnx")
    image = images(64)
    from kopt.frontend.export import to_model

    def logits(graph: object) -> np.ndarray:
        return ort.InferenceSession(to_model(graph).SerializeToString()).run(None, {"image": image})[0]

    wanted = ort.InferenceSession(path).run(None, {"image": image})[0]
    errors = [np.square(logits(prune(path, ratio=0.25, calib=calib).graph) - wanted).mean() for calib in (None, {"image": image})]
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(("method", "share"), [("unstructured", 0.7), ("2:4", 0.5)])
def test_zeros_are_for_size_only(method: str, share: float) -> None:
    for calib in (None, {"image": images(20)}):
        pruned = prune(str(MODELS / "digits_plain.onnx"), ratio=0.7 if method == "unstructured" else None, method=method, calib=calib)
        assert pruned.report["size_only"]
        assert pruned.report["calibrated"] == (calib is not None)
    assert pruned.report["zeros"] == pytest.approx(share * pruned.report["parameters"][0], rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "no share"),
        ({"ratio": 0.5, "latency": 0.5}, "two targets"),
        ({"latency": 1.5}, "no target"),
        ({"method": "magic"}, "unknown method"),
        ({"method": "4:2"}, "no pattern"),
        ({"method": "2:4", "latency": 0.5}, "do not change the latency"),
        ({"method": "2:4", "ratio": 0.5}, "says itself"),
        ({"calib": {"image": images(4)}}, "too few"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prune(str(MODELS / "digits_plain.onnx"), **options)
