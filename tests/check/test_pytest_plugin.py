"""The ``kopt_latency`` fixture, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib

import pytest

import kopt
from support import graphs
from support.source import ROOT

MODEL = "m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"

# Measuring is replaced: every call takes about 1 ms, and the candidate is 30 % slower than its baseline.
CONFTEST = """
import numpy as np, pytest
from support.runs import process_run

@pytest.fixture(autouse=True)
def measured(monkeypatch):
    from kopt.check import gate

    def measure(baseline, candidate, feeds, *, number, seed, **_):
        return process_run(np.random.default_rng([seed, number]), 0.0 if baseline is None else 0.3, alone=baseline is None)

    monkeypatch.setattr(gate, "measure_process", measure)
"""

TESTS = """
def test_holds(kopt_latency):
    assert kopt_latency("new.kopt", batch=2).assert_below(p50_ms=5, p90_ms=6.5).verdict == "pass"
    kopt_latency("new.kopt").assert_within(throughput="10/s", artifact_size="1 GB")

def test_too_slow(kopt_latency):
    kopt_latency("new.kopt").assert_below(p50_ms=0.1)

def test_slower_than_before(kopt_latency):
    kopt_latency("new.kopt").assert_not_slower("old.kopt", than="10 %")

def test_unclear(kopt_latency):
    kopt_latency("new.kopt", time_limit_s=1e-9).assert_below(p99_ms=5)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("suite")
    kopt.compile(graphs.model(MODEL), output=made / "old.kopt", batch=2, measure=False)
    kopt.compile(graphs.model(MODEL.replace("Relu", "Neg")), output=made / "new.kopt", batch=2, measure=False)
    (made / "conftest.py").write_text(CONFTEST)
    (made / "test_latency.py").write_text(TESTS)
    return made


def run(folder, *options, ini="[pytest]\n"):
    (folder / "pytest.ini").write_text(ini)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "kopt.check.pytest_plugin", "-p", "no:cacheprovider", "-q", "-rA", *options],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_outcomes_become_outcomes_of_tests(folder) -> None:
    text = run(folder)
    assert "2 failed, 1 passed, 1 skipped" in text, text
    assert "fail: m, batch 2: p50" in text
    assert "fail: m, batch 2: max_regression +" in text
    assert "limit <= 10 %" in text
    assert "kopt: inconclusive" in text
    assert "outcome = check(" not in text, "the plugin's own frames are hidden"


@pytest.mark.parametrize(("choice", "counted"), [("xfail", "1 xfailed"), ("fail", "1 failed")])
def test_what_an_inconclusive_outcome_does_is_configurable(folder, choice, counted) -> None:
    assert counted in run(folder, "-k", "unclear", f"--kopt-inconclusive={choice}")
    assert counted in run(folder, "-k", "unclear", ini=f"[pytest]\nkopt_inconclusive = {choice}\nkopt_time_limit = 30\n")


@pytest.mark.parametrize(("ini", "message"), [("kopt_inconclusive = warn", "none of: skip"), ("kopt_time_limit = long", "no")])
def test_a_wrong_setting_is_named(folder, ini, message) -> None:
    text = run(folder, "-k", "holds", ini=f"[pytest]\n{ini}\n")
    assert "1 error" in text
    assert message in text


def test_the_plugin_is_declared_and_imports_nothing_heavy() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"kopt": "kopt.check.pytest_plugin"}
    script = "import sys, kopt.check.pytest_plugin; print([one for one in ('numpy', 'jax', 'onnx', 'scipy') if one in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
