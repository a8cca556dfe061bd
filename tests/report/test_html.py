"""The HTML report: whole, self-contained, equal for equal reports, safe with hostile names, and honest about what is missing."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from html.parser import HTMLParser
from typing import Any

import plotly.graph_objects as go
import pytest

from kopt.errors import MissingDependencyError
from kopt.report import html
from kopt.report.page import cards, latency_rows, of_comparison, of_reports
from kopt.report.points import Source
from support.reports import bucket, latency, report

CHARTS = ("distribution", "percentiles", "throughput", "front", "operators", "roofline", "search")
HOSTILE = "</script><script>alert(1)</script><b>&\"'"


def full() -> dict[str, Any]:
    """A report with everything a page can show."""
    content = report()
    content["buckets"] = [bucket(batch, 100.0 * cost, 90.0 * cost) for batch, cost in ((1, 1.0), (2, 1.2), (4, 1.6), (8, 3.1), (16, 6.1))]
    trials = [
        {"elapsed_s": 1.0, "p50_us": 200.0, "kind": "measured", "config": "tile=8"},
        {"elapsed_s": 2.0, "p50_us": None, "kind": "crash", "failure": "crash: signal 11"},
        {"elapsed_s": 2.5, "p50_us": None, "kind": "slow"},
        {"elapsed_s": 3.0, "p50_us": 150.0, "kind": "measured"},
    ]
    search = {
        "trials": trials,
        "failures": {"crash": 1},
        "seconds": 3.0,
        "budget_s": 60.0,
        "num_combinations": 12,
        "chosen": {"tile": 8, "threads": 2},
        "race": [{"config": {"tile": 8}, "p50_us": 150.0, "ratio": 1.0}, {"config": {"tile": 4}, "p50_us": 180.0, "ratio": 1.2}],
        "batches": [{"batch": 1, "p50_us": 80.0}, {"batch": 32, "p50_us": 900.0}],
        "kernels": KERNELS,
    }
    return {**content, "search": search}


KERNELS = {
    "peak_gflops": 220.0,
    "failures": {},
    "progress": [{"elapsed_s": 1.0, "model_us": 120.0}, {"elapsed_s": 2.0, "model_us": 100.0}],
    "workloads": [
        {
            "workload": "product 128x768 128x3072 f32",
            "calls": 12,
            "implementation": "Strassen",
            "config": {"rows": 8, "panel": 48},
            **{"p50_us": 2600.0, "default_us": 2900.0, "gflops": 205.0, "of_peak": 0.93, "trials": 24},
        },
        {"workload": "attention", "calls": 1, "implementation": "Attention", "config": {}, "p50_us": 9.0, "default_us": None, "trials": 1},
        {"workload": "never measured", "calls": 1, "default_us": None, "trials": 0},
    ],
}


def rendered(*contents: dict[str, Any]) -> str:
    return html.render(of_reports([Source(f"{number}.kopt", content) for number, content in enumerate(contents)]))


def charts_of(text: str) -> dict[str, Any]:
    return json.loads(re.search(r"const charts = (.*);\n", text).group(1))


class Tags(HTMLParser):
    """Every start tag with its attributes, and the text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.words.append(data)


def test_every_chart_is_there_and_is_a_valid_figure() -> None:
    text = rendered(full())
    charts = charts_of(text)
    assert set(charts) == {*CHARTS, "kernel_search"}
    places = {attributes.get("id") for _, attributes in Tags(text).tags}
    for key, chart in charts.items():
        assert f"chart-{key}" in places
        go.Figure(chart)  # raises on any unknown property
    assert "not measured" not in " ".join(Tags(text).words)
    assert any(trace["name"] == "knee of 0.kopt: batch 4" for trace in charts["throughput"]["data"])


def test_a_search_is_told_and_its_batch_curve_drawn() -> None:
    text = rendered(full())
    charts, words = charts_of(text), " ".join(Tags(text).words)
    assert "4 trials of 12 possible programs in 3 s of 60 s; failed: 1 crash" in words
    assert "chosen: tile=8 threads=2" in words
    assert "1.200" in words
    assert "Strassen rows=8 panel=48" in words
    assert "as without a search" in words
    assert "93%" in words
    assert charts["kernel_search"]["data"][0]["y"] == [0.12, 0.1]
    assert [trace["name"] for trace in charts["search"]["data"]] == ["trial", "best so far", "given up as slow", "failed"]
    assert charts["search"]["data"][1]["y"] == [0.2, 0.15]
    assert "0.kopt, searched" in {trace["name"] for trace in charts["throughput"]["data"]}


def test_the_file_loads_nothing() -> None:
    tags = Tags(rendered(full())).tags
    assert not [(tag, attributes) for tag, attributes in tags if {"src", "srcset"} & set(attributes)]
    assert [attributes["href"] for tag, attributes in tags if "href" in attributes] == ["data:,"]
    (policy,) = [attributes["content"] for tag, attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_equal_reports_give_equal_bytes() -> None:
    assert rendered(full()) == rendered(copy.deepcopy(full()))


def test_names_cannot_become_code() -> None:
    content = full()
    content["model"]["name"] = HOSTILE
    content["machine"]["cpu"] = HOSTILE
    content["buckets"][0]["operators"][0]["operator"] = HOSTILE
    content["buckets"][0]["nodes"][0]["node"] = HOSTILE
    content["passes"][1]["rewrites"] = {HOSTILE: 1}
    content["search"]["trials"][1]["failure"] = HOSTILE
    text = html.render(of_reports([Source(HOSTILE, content)]))
    found = Tags(text)
    assert sum(tag == "script" for tag, _ in found.tags) == 2
    assert not any(tag == "b" for tag, _ in found.tags)
    assert HOSTILE in "".join(found.words)
    labels = charts_of(text)["operators"]["data"][0]["hovertext"]
    assert "&lt;b&gt;" in labels[0]  # plotly reads tags in texts


def test_what_is_missing_is_said_to_be() -> None:
    content = report()
    for key in ("latency", "baseline", "operators", "nodes", "accuracy"):
        del content["buckets"][0][key]
    del content["machine"]["peak_gflops"]
    text = rendered(content)
    assert charts_of(text) == {}
    words = " ".join(Tags(text).words)
    assert words.count("not measured") == len(CHARTS) + 1  # the first number on top, too
    assert "not compared" in words


def test_a_report_without_samples_or_bandwidth_keeps_what_it_has() -> None:
    content = report()
    del content["machine"]["peak_gbytes_per_s"]
    for side in (content["buckets"][0], content["buckets"][0]["baseline"]):
        del side["latency"]["samples_ns"]
    charts = charts_of(rendered(content))
    assert "distribution" not in charts
    assert "percentiles" in charts
    assert "memory not measured" in charts["roofline"]["data"][0]["name"]


def test_several_reports_side_by_side() -> None:
    second = full()
    second["precision"] = "bf16"
    second["machine"] = {**second["machine"], "threads": 1}
    for one in second["buckets"]:
        one["accuracy"]["relative"] = 1e-3
    text = rendered(full(), second)
    charts = charts_of(text)
    assert "accuracy_front" in charts
    assert {trace["name"] for trace in charts["roofline"]["data"][1:]} == {f"0.kopt, batch {batch}" for batch in (1, 2, 4, 8, 16)}
    assert "1.kopt" in " ".join(Tags(text).words)


def test_a_comparison_of_runtimes() -> None:
    def runner(name: str, p50_us: float) -> dict[str, Any]:
        facts = {"load_s": 0.1, "first_s": 0.01, "peak_bytes": 10**8}
        return {"runner": name, "version": "1", "latency": latency(p50_us), **facts}

    results = [{"model": "m", "batch": batch, "runners": [runner("kopt", 90.0 * batch), runner("onnxruntime", 99.0)]} for batch in (1, 2)]
    page = of_comparison(results, {"cpu": "A", "threads": 2}, {"kopt": "0.1.0"})
    assert [row[:2] for row in latency_rows(page)] == [("kopt 1", "1"), ("onnxruntime 1", "1"), ("kopt 1", "2"), ("onnxruntime 1", "2")]
    assert cards(page)[0][2] == "kopt 1, batch 1"
    assert set(charts_of(html.render(page))) == {"distribution", "percentiles", "throughput", "front"}
    two = of_comparison([*results, {**results[0], "model": "n"}], {"cpu": "A", "threads": 2}, {})
    assert "n in kopt 1" in {point.series for point in two.points}


def test_missing_packages_are_named(monkeypatch) -> None:
    monkeypatch.setattr(html, "find_spec", lambda name: None if name == "plotly" else importlib.util.find_spec(name))
    with pytest.raises(MissingDependencyError, match=r"plotly must be installed[\s\S]*pip install 'kopt\[report\]'"):
        html.require()
