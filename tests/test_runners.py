"""Children that hold one runtime each: what they answer, and what they say when they cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from kopt import errors
from kopt.measure import Protocol
from kopt.runners import Runner, alternate, child_environment
from support import graphs

SHORT = Protocol(rounds=2, block_s=1e-4, min_calls=3, warmup_s=1e-4)


@pytest.fixture
def negate(tmp_path: Path) -> Path:
    onnx.save(graphs.model("m (float[2,3] x, float[2,3] z) => (float[2,3] y) { y = Sub(x, z) }"), tmp_path / "sub.onnx")
    return tmp_path / "sub.onnx"


def test_a_child_answers_by_name_and_times(negate, rng) -> None:
    feeds = {name: rng.standard_normal((2, 3)).astype(np.float32) for name in ("z", "x")}
    with Runner("onnxruntime", negate, feeds, threads=1) as runner, Runner("onnxruntime", negate, feeds, threads=1) as other:
        (found,) = runner.outputs()
        measured = alternate([runner, other], SHORT)
        assert runner.started.version
        assert runner.peak_bytes() > 1e6
    np.testing.assert_array_equal(found, feeds["x"] - feeds["z"])
    assert [len(side.blocks_ns) for side in measured] == [2, 2]
    assert all(len(block) >= 3 for side in measured for block in side.blocks_ns)


def test_a_runtime_that_refuses_says_why(tmp_path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(errors.ToolchainError, match="onnxruntime"):
        Runner("onnxruntime", tmp_path / "bad.onnx", {}, threads=1)


def test_unknown_and_missing_runtimes(negate, monkeypatch) -> None:
    with pytest.raises(errors.UsageError, match="unknown runner 'tensorflow'"):
        Runner("tensorflow", negate, {}, threads=1)
    monkeypatch.setattr("kopt.runners.find_spec", lambda name: None)
    with pytest.raises(errors.MissingDependencyError, match="openvino is not installed") as caught:
        Runner("openvino", negate, {}, threads=1)
    assert "kopt[openvino]" in caught.value.next_step


def test_children_get_their_thread_count_before_they_start() -> None:
    found = child_environment(3)
    assert (found["NPROC"], found["OMP_NUM_THREADS"]) == ("3", "3")
