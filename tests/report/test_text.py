"""The report as text: what was not measured says so, and Markdown has the same cells as the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from kopt.hardware import Target
from kopt.passes.base import PassRecord
from kopt.report import model as reports
from kopt.report.text import duration, markdown, rows, show, size
from support import graphs


def report(*buckets: dict[str, Any], target: str = "cpu") -> dict[str, Any]:
    graph = graphs.graph("m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    record = PassRecord("cleanup", "cleanup", 0.25, 3, 2, {"identity": 1}, ())
    found = reports.build(graph, Target.parse(target), "fp32", [record], buckets)
    found["machine"]["peak_gflops"] = 100.0
    return found


def measured(**more: Any) -> dict[str, Any]:
    bucket: dict[str, Any] = {"batch": 4, "shapes": {"x": [4, 3]}, "flops": 2_000_000, "compile_s": 1.5, "weights_bytes": 12}
    bucket["accuracy"] = {"reference": "ONNX Runtime 1", "relative": 2.5e-7, "worst": "y"}
    bucket["latency"] = {"p50_us": 200.0, "p90_us": 1500.0, "p99_us": None, "num_samples": 10}
    bucket["baseline"] = {"name": "onnxruntime", "latency": {"p50_us": 400.0}, "ratio": 0.5, "ratio_lower": 0.4, "ratio_upper": 0.6}
    bucket |= {"load_s": 0.1, "first_s": 0.002, "peak_bytes": 3e8, **more}
    reports.add_rates(bucket, 100.0)
    return bucket


def text_of(found: dict[str, Any]) -> str:
    stream = io.StringIO()
    show(found, Console(file=stream, width=100, no_color=True))
    return stream.getvalue()


def test_rates() -> None:
    bucket = measured()
    assert (bucket["throughput_per_s"], bucket["gflops"], bucket["peak_share"]) == pytest.approx((20_000, 10, 0.1))


def test_a_measured_bucket() -> None:
    (row,) = rows(report(measured()))
    assert row[:7] == ("4", "200 us", "1.5 ms", "not estimable", "2e+04", "400 us", "0.50 [0.40, 0.60]")
    assert row[7:] == ("10", "10%", "2.5e-07", "1.5 s", "100 ms", "2 ms", "300 MB")


def test_a_missing_baseline_gives_its_reason() -> None:
    (row,) = rows(report(measured(baseline={"name": "onnxruntime", "missing": "onnxruntime is not installed"})))
    assert row[5:7] == ("onnxruntime is not installed", "-")


def test_nothing_measured_says_so() -> None:
    found = report({"batch": 1, "shapes": {}, "flops": 0}, target="cuda:sm_90")
    found["target"]["present"] = False
    assert rows(found)[0][1:10] == (*["not measured"] * 8, "not compared")
    assert "no cuda device here" in text_of(found)


def test_terminal_and_markdown_hold_the_same_cells() -> None:
    found = report(measured(), measured(batch=8))
    terminal, page = text_of(found), markdown(found)
    for cell in [cell for row in rows(found) for cell in row]:
        assert cell in terminal
        assert f" {cell} |" in page
    assert "identity 1" in terminal
    assert "- rewrites: identity 1" in page
    assert len({line.count("|") for line in page.splitlines() if line.startswith("|")}) == 1


def test_schema_and_passes() -> None:
    found = report()
    assert found["schema"] == reports.SCHEMA
    assert found["passes"] == [{"pass": "cleanup", "seconds": 0.25, "nodes": [3, 2], "rewrites": {"identity": 1}, "skips": []}]
    assert found["versions"]["numpy"]


@pytest.mark.parametrize(("value", "text"), [(None, "not estimable"), (0.5, "0.5 us"), (999, "999 us"), (1000, "1 ms"), (2.5e6, "2.5 s")])
def test_durations(value, text) -> None:
    assert duration(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (2.5e6, "2.5 MB"), (3e12, "3e+03 GB")])
def test_sizes(value, text) -> None:
    assert size(value) == text
