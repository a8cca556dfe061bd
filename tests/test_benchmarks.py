"""The arithmetic of the benchmarks, the order of their blocks, and the idle processes they rely on."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from support.source import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import children
import models
import run


class Recorded:
    """Stands in for a child process and writes down when it was asked."""

    def __init__(self, name: str, log: list[str], *, settles: bool = True) -> None:
        self.name, self.log, self.settles = name, log, settles

    def block(self, seconds: float, num_calls: int = 5, inner: int = 1) -> list[int]:
        self.log.append(self.name)
        return [len(self.log)] * num_calls

    def settle(self) -> bool:
        self.log.append(f"({self.name})")
        return self.settles


def test_blocks_alternate_and_each_process_settles_before_the_next() -> None:
    log: list[str] = []
    samples, restless = children.alternate([Recorded(name, log, settles=name != "b") for name in "abc"], rounds=2, seconds=0, num_calls=3)
    warm_up, rounds = log[:6], log[6:]
    assert warm_up == ["a", "(a)", "b", "(b)", "c", "(c)"]
    assert [name for name in rounds if "(" not in name] == list("abccba" * 2)
    assert rounds[1::2] == [f"({name})" for name in rounds[::2]]
    assert {name: [len(one) for one in each] for name, each in samples.items()} == {name: [6, 6] for name in "abc"}
    assert restless == ["b"]


def test_ratios_are_formed_within_rounds() -> None:
    assert children.ratios([[10], [100], [30]], [[10], [50], [10]]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_summary_is_in_milliseconds() -> None:
    found = children.summary([[1_000_000, 3_000_000], [2_000_000]])
    assert found["p50_ms"] == 2.0
    assert found["num_samples"] == 3
    assert found["round_p50_ms"] == [2.0, 2.0]


def test_relative_error() -> None:
    truth = {"y": np.array([1.0, -4.0], np.float32), "empty": np.zeros((0, 3), np.float32)}
    assert run.relative_error(truth, truth) == 0.0
    assert run.relative_error({"y": np.array([1.0, -3.0], np.float32), "empty": truth["empty"]}, truth) == pytest.approx(0.25)
    assert run.relative_error({"y": np.array([np.nan, -4.0], np.float32), "empty": truth["empty"]}, truth) == np.inf
    with pytest.raises(RuntimeError, match="shape"):
        run.relative_error({"y": np.zeros(3, np.float32), "empty": truth["empty"]}, truth)


def test_models_are_drawn_alike_every_time() -> None:
    first, second = (models.with_weights("resnet18") for _ in range(2))
    assert first == second
    onnx.checker.check_model(first, full_check=True)
    assert {name: (array.shape, array.dtype.name) for name, array in models.inputs_of(first, batch=8).items()} == {
        "pixel_values": ((8, 3, 224, 224), "float32")
    }
    for tensor in first.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            assert np.isfinite(onnx.numpy_helper.to_array(tensor)).all(), tensor.name


def test_a_peer_answers_and_then_sleeps(digits_model, digits_heldout, tmp_path) -> None:
    image = digits_heldout[0][:4]
    np.savez(tmp_path / "in.npz", image=image)
    with children.Child("onnxruntime", digits_model, tmp_path / "in.npz", threads=1) as child:
        assert len(child.block(0.0, num_calls=7)) == 7
        assert child.settle()
        assert child.outputs()["logits"].shape == (4, 10)
        assert child.first_answer_s >= child.started["load_s"] + child.started["first_call_s"]


def test_a_child_that_dies_is_an_error(tmp_path) -> None:
    np.savez(tmp_path / "in.npz", image=np.zeros(1))
    with pytest.raises(RuntimeError, match="onnxruntime ended with code 1"):
        children.Child("onnxruntime", tmp_path / "missing.onnx", tmp_path / "in.npz")
