"""What a report says of one shape, measured in children; and where the time went."""

from __future__ import annotations

import subprocess

import ml_dtypes
import numpy as np
import pytest

import kopt
from kopt import errors, latency
from kopt.measure import MIN_P99_SAMPLES, Measurement, Protocol
from support import graphs

SHORT = Protocol(rounds=2, block_s=1e-4, min_calls=3, warmup_s=1e-4)


def measured(tmp_path, graph, dtype, *, baseline: bool) -> dict:
    artifact = kopt.compile(graphs.model(graph), output=tmp_path / "m.kopt", batch=2, measure=False)
    feeds = {"x": np.ones((2, 3), dtype)}
    return latency.measure_bucket(
        artifact.path, graphs.graph(graph), {"x": (2, 3)}, feeds, tmp_path, threads=1, baseline=baseline, protocol=SHORT
    )


def test_a_bucket_beside_onnxruntime(tmp_path) -> None:
    found = measured(tmp_path, "m (float[N,3] x) => (float[N,3] y) { y = Tanh(x) }", np.float32, baseline=True)
    assert found["latency"]["num_samples"] == sum(map(len, found["latency"]["samples_ns"])) >= 2
    assert found["latency"]["p50_us"] > 0
    assert found["latency"]["p99_us"] is None
    assert found["peak_bytes"] > 1e6
    assert min(found["import_s"], found["load_s"], found["first_s"]) > 0
    base = found["baseline"]
    assert (base["name"], base["num_pairs"]) == ("onnxruntime", 2)
    assert base["ratio_lower"] <= base["ratio"] <= base["ratio_upper"]


def test_bfloat16_reaches_the_child_and_a_refusing_baseline_says_why(tmp_path) -> None:
    found = measured(tmp_path, "m (bfloat16[N,3] x) => (bfloat16[N,3] y) { y = Neg(x) }", ml_dtypes.bfloat16, baseline=True)
    assert found["latency"]["p50_us"] > 0
    assert "onnxruntime failed" in found["baseline"]["missing"]


@pytest.mark.parametrize(("asked", "reason"), [(False, "not asked for"), (True, "onnxruntime is not installed")])
def test_no_baseline(tmp_path, monkeypatch, asked, reason) -> None:
    monkeypatch.setattr(latency, "available", lambda kind: False)
    found = measured(tmp_path, "m (float[N,3] x) => (float[N,3] y) { y = Neg(x) }", np.float32, baseline=asked)
    assert found["baseline"] == {"name": "onnxruntime", "missing": reason}


def test_shares_of_time_add_up_by_operator() -> None:
    graph = graphs.graph("m (float[2] x) => (float[2] y) { [relu] a = Relu(x) [neg] y = Neg(a) }")
    found = latency.time_shares(graph, {"relu": 60.0, "copy": 30.0, "neg": 10.0}, most=2)
    assert [(one["operator"], one["share"]) for one in found["operators"]] == [("Relu", 0.6), ("other", 0.3), ("Neg", 0.1)]
    assert found["nodes"] == [
        {"node": "relu", "share": 0.6, "operator": "Relu", "flops": 2, "bytes": 16},
        {"node": "copy", "share": 0.3},
    ]


def test_work_of_open_shapes_is_unknown() -> None:
    graph = graphs.graph("m (float[N] x) => (float[N] y) { [relu] y = Relu(x) }")
    assert latency.time_shares(graph, {"relu": 1.0})["nodes"] == [{"node": "relu", "share": 1.0, "operator": "Relu"}]


@pytest.mark.parametrize("times", [{}, {"a": 0.0}])
def test_no_time_at_all_is_no_share(times) -> None:
    found = latency.time_shares(graphs.graph("m (float[2] x) => (float[2] y) { y = Relu(x) }"), times)
    assert sum(one["share"] for one in found["operators"]) == 0


def test_quantiles_keep_their_samples() -> None:
    few = latency.latency(Measurement(((1000, 3000),)))
    assert (few["p50_us"], few["p99_us"], few["num_samples"], few["samples_ns"]) == (2.0, None, 2, [[1000, 3000]])
    assert latency.latency(Measurement((tuple([1000] * MIN_P99_SAMPLES),)))["p99_us"] == 1.0


def test_a_peak_that_cannot_be_measured_is_a_toolchain_error(monkeypatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *a, **k: subprocess.CompletedProcess(a, 3, "", ""))
    with pytest.raises(errors.ToolchainError, match="exited with 3"):
        latency.measured_peaks(1)

    def hang(*command: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("peak", 120)

    monkeypatch.setattr("subprocess.run", hang)
    with pytest.raises(errors.ToolchainError, match="two minutes"):
        latency.measured_peaks(1)
