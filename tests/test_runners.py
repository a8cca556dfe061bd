"""Children that hold one runtime each: what they answer, and what they say when they cannot."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

import kopt
from kopt import errors
from kopt.measure import Protocol
from kopt.runners import Runner, alternate, available, child_environment
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
    assert all(block for side in measured for block in side.blocks_ns)


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


@pytest.mark.parametrize("kind", ["kopt", "openvino"])
def test_other_runtimes_answer_alike(negate, tmp_path, rng, kind) -> None:
    if not available(kind):
        pytest.skip(f"{kind} is not installed")
    model = kopt.compile(str(negate), output=tmp_path / "m.kopt", measure=False).path if kind == "kopt" else negate
    feeds = {name: rng.standard_normal((2, 3)).astype(np.float32) for name in ("z", "x")}
    with Runner(kind, model, feeds, threads=1) as runner:
        np.testing.assert_allclose(runner.outputs()[0], feeds["x"] - feeds["z"], rtol=1e-6)
        assert runner.block(1e-4, 3)
        assert all(share >= 0 for share in runner.node_times_ns().values())


def test_names_and_bfloat16_survive_the_way_to_a_child(tmp_path) -> None:
    graph = "m (bfloat16[2,2] x) => (bfloat16[2,2] y) { y = Neg(x) }"
    artifact = kopt.compile(graphs.model(graph), output=tmp_path / "m.kopt", measure=False)
    x = np.array([[1, -2], [0.5, 3]], ml_dtypes.bfloat16)
    with Runner("kopt", artifact.path, {"x": x}, threads=1) as runner:
        (found,) = runner.outputs()
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), -x.astype(np.float32))


def test_strings_are_refused_before_a_child_starts(negate) -> None:
    with pytest.raises(errors.ToolchainError, match="strings here: input 'x'"):
        Runner("onnxruntime", negate, {"x": np.array(["a"], object)}, threads=1)


def test_a_child_that_dies_is_an_error(negate, rng) -> None:
    feeds = {name: rng.standard_normal((2, 3)).astype(np.float32) for name in ("x", "z")}
    with Runner("onnxruntime", negate, feeds, threads=1) as runner:
        runner._process.kill()
        runner._process.wait()
        for ask in (runner.outputs, runner.peak_bytes):
            with pytest.raises(errors.ToolchainError, match="onnxruntime failed"):
                ask()


def test_a_child_that_never_starts_is_ended(negate, monkeypatch) -> None:
    monkeypatch.setattr("kopt.runners._START_TIMEOUT_S", 0.01)
    with pytest.raises(errors.ToolchainError, match="ended with code -9"):
        Runner("onnxruntime", negate, {"x": np.zeros((2, 3), np.float32), "z": np.zeros((2, 3), np.float32)}, threads=1)
