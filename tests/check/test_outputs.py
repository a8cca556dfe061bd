"""What other tools read: each output is parsed by its own reader or grammar."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from kopt import errors
from kopt.check.benchstat import to_benchstat
from kopt.check.describe import found, quantity, sentence
from kopt.check.gate import Outcome, Samples
from kopt.check.github import append_summary, to_markdown, workflow_commands
from kopt.check.json_output import to_json
from kopt.check.judge import Result
from kopt.check.junit import to_junit
from kopt.check.prometheus import to_prometheus
from kopt.check.verdict import Verdict
from support.runs import process_run

SLOW = Result("net|a", 8, "max_regression", Verdict.FAIL, 0.05, 0.061, 0.048, 0.075, 20, 0, "slower\x00 than <the> baseline", 3)
UNSURE = Result("net|a", 8, "p99", Verdict.INCONCLUSIVE, 0.012, note="200 more calls could settle it", num_samples=500, line=9)
SMALL = Result("b net", 0, "artifact_size", Verdict.PASS, 2e6, 1.5e6, 1.5e6, 1.5e6, line=12)
RESULTS = (SLOW, UNSURE, SMALL)


def outcome() -> Outcome:
    rng = np.random.default_rng(0)
    runs = tuple(process_run(rng, 0.06, calls=5) for _ in range(2))
    return Outcome(RESULTS, (Samples("net|a", 8, runs, runs, (process_run(rng, alone=True, calls=4),)),), "a processor", 7)


def test_words() -> None:
    assert found(SLOW) == "+6.1% [+4.8%, +7.5%]"
    assert found(SMALL) == "1.5 MB"
    assert sentence(UNSURE) == "net|a, batch 8: p99 - (limit <= 12 ms); 500 calls; 200 more calls could settle it"
    assert (quantity("throughput", 900), quantity("p50", math.inf), quantity("accuracy_drop", 1e-5)) == ("900/s", "unbounded", "1e-05")


def test_json_is_equal_for_equal_samples_and_holds_them_all() -> None:
    text = to_json(outcome())
    assert text == to_json(outcome())
    content = json.loads(text)
    assert (content["schema"], content["verdict"], content["seed"]) == (1, "fail", 7)
    assert content["results"][1]["value"] is None
    assert content["samples"][0]["first"][0]["pairs"][0]["candidate_ns"] == list(outcome().samples[0].first[0].pairs[0].candidate_ns)
    assert content["samples"][0]["alone"][0]["pairs"][0]["baseline_ns"] == []


def test_junit() -> None:
    root = ElementTree.fromstring(to_junit(RESULTS).encode())
    assert [(suite.get("name"), suite.get("failures"), suite.get("skipped")) for suite in root] == [
        ("net|a", "1", "1"),
        ("b net", "0", "0"),
    ]
    assert [[child.tag for child in case] for case in root.iter("testcase")] == [["failure"], ["skipped"], ["system-out"]]
    assert "slower? than <the> baseline" in root.find(".//failure").get("message")


def test_github_summary(tmp_path) -> None:
    append_summary(tmp_path / "summary", RESULTS)
    append_summary(tmp_path / "summary", (SMALL,))
    text = (tmp_path / "summary").read_text()
    assert text.index("❌ fail |") < text.index("⚠️ inconclusive |") < text.index("✅ pass |")
    assert "net\\|a" in text
    assert "&lt;the>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}
    long = to_markdown([SMALL] * 20_000)
    assert len(long.encode()) < 1_000_000
    assert "more are left out" in long
    with pytest.raises(errors.FileError, match="step summary"):
        append_summary(tmp_path / "absent" / "summary", RESULTS)


def test_github_annotations(tmp_path) -> None:
    error, warning = workflow_commands(RESULTS, tmp_path / "a,b.toml")
    assert error.startswith(f"::error file={tmp_path}/a%2Cb.toml,line=3,title=kopt check::net|a, batch 8: max_regression +6.1%25 [")
    assert warning.startswith("::warning file=")
    assert len(workflow_commands([SLOW] * 30, None)) == 10


def test_prometheus() -> None:
    lines = to_prometheus([SMALL, SLOW, UNSURE, Result("b net", 0, "artifact_size", Verdict.FAIL, 1e6, 1.5e6)]).splitlines()
    assert 'kopt_check_verdict{model="b net",batch="0",key="artifact_size"} 1' in lines
    assert 'kopt_check_value{model="net|a",batch="8",key="p99"} NaN' in lines
    samples = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-z_]+\{\w+="[^"]*"(,\w+="[^"]*")*\} (NaN|[-+0-9.e]+)', line) for line in samples)
    assert len({line.rpartition(" ")[0] for line in samples}) == len(samples) == 9
    assert 'model="a\\"\\\\"' in to_prometheus([Result('a"\\', 0, "p50", Verdict.PASS, 1.0)])


def test_benchstat() -> None:
    new, old = to_benchstat(outcome()).splitlines(), to_benchstat(outcome(), baseline=True).splitlines()
    assert new[0] == "cpu: a processor"
    assert len(new) - 1 == 20
    assert len(old) - 1 == 16
    assert all(re.fullmatch(r"Benchmark[A-Z]\S* \d+ \d+ ns/op", line) for line in new[1:])
