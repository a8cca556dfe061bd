"""The report's fields are those that docs/measuring.md names, measured or not."""

from __future__ import annotations

import json
import re

import pytest

import kopt
from kopt import compiler
from kopt.hardware import available_cores
from kopt.measure import Protocol
from support import graphs
from support.source import ROOT

MODEL = "m (float[N,3] x) => (float[N,3] y) { y = Tanh(x) }"
OPTIONAL = {"native_tier"}


def documented(heading: str) -> set[str]:
    """Backquoted names in the first column of the table under a heading."""
    text = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
    table = text.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "Protocol", lambda: Protocol(rounds=2, block_s=1e-4, min_calls=3, warmup_s=1e-4))
        path = tmp_path_factory.mktemp("report") / "m.kopt"
        return kopt.compile(graphs.model(MODEL), output=path, batch=2).report


def test_every_field_is_documented_and_every_documented_field_is_there(report) -> None:
    assert set(report) == documented("Key")
    (bucket,) = report["buckets"]
    assert set(bucket) | OPTIONAL == documented("Key of a bucket")


def test_a_measured_report_is_json_and_adds_up(report) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    (bucket,) = report["buckets"]
    seconds = bucket["latency"]["p50_us"] / 1e6
    assert bucket["throughput_per_s"] == pytest.approx(2 / seconds)
    assert bucket["gflops"] == pytest.approx(bucket["flops"] / seconds / 1e9)
    assert bucket["peak_share"] == pytest.approx(bucket["gflops"] / report["machine"]["peak_gflops"])
    assert report["machine"]["threads"] == available_cores()
    assert set(bucket["baseline"]) == {"name", "version", "latency", "ratio", "ratio_lower", "ratio_upper", "num_pairs"}


def test_what_is_not_measured_is_absent(tmp_path) -> None:
    found = kopt.compile(graphs.model(MODEL), output=tmp_path / "m.kopt", measure=False).report
    assert "peak_gflops" not in found["machine"]
    assert set(found["buckets"][0]) <= documented("Key of a bucket")
    assert not {"latency", "baseline", "throughput_per_s"} & set(found["buckets"][0])
