"""``kopt.check``: the gate from Python."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

import kopt
from kopt import errors
from kopt.check import api
from kopt.check import gate as gates
from kopt.check.verdict import Verdict
from support import graphs
from support.runs import process_run

MODEL = "m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    kopt.compile(graphs.model(MODEL), output=folder / "old.kopt", batch=2, measure=False)
    kopt.compile(graphs.model(MODEL.replace("Relu", "Neg")), output=folder / "new.kopt", batch=(2, 4), measure=False)
    return folder


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Replaces measuring: the candidate is as slow as its baseline, 1 ms a call."""

    def measure(baseline, candidate, feeds, *, number, seed, **_):
        return process_run(np.random.default_rng([seed, number]), alone=baseline is None)

    monkeypatch.setattr(gates, "measure_process", measure)


def test_limits_by_key(made) -> None:
    found = kopt.check(made / "new.kopt", {"p50": "5 ms", "artifact_size": "1 B"}, batch=4)
    assert [(one.batch, one.key, one.verdict) for one in found.results] == [
        (4, "p50", Verdict.PASS),
        (4, "artifact_size", Verdict.FAIL),
    ]
    assert found.verdict is Verdict.FAIL
    assert str(found).splitlines()[1].startswith("fail: m, batch 4: artifact_size")


def test_a_file_a_baseline_and_several_artifacts(made, tmp_path) -> None:
    (tmp_path / "budgets.toml").write_text('[[budget]]\nmax_regression = "5 %"\n')
    found = kopt.check([str(made / "old.kopt"), made / "new.kopt"], str(tmp_path / "budgets.toml"), baseline=str(made / "old.kopt"))
    assert [one.verdict.value for one in found.results] == ["pass", "pass", "inconclusive"]
    assert found.results[0].note == "unchanged, not measured"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to judge against"),
        ({"budget": {"p49": "1 s"}}, "unknown key 'p49'"),
        ({"budget": {"p50": 5}}, "a number with one of ns"),
        ({"budget": {}}, "without a limit"),
        ({"budget": {"p50": "1 s"}, "batch": 0}, "a number of rows"),
        ({"baseline": "old.kopt", "batch": 2}, "batch selects nothing"),
        ({"budget": {"p50": "1 s"}, "time_limit_s": 0}, "must be positive"),
        ({"budget": {"p50": "1 s"}, "threads": 0}, "must be positive"),
        ({"budget": {"p50": "1 s"}, "batch": 77}, "no budget selects"),
    ],
)
def test_what_makes_no_sense_is_refused(made, options, message) -> None:
    with pytest.raises(errors.UsageError, match=message) as caught:
        kopt.check(made / "new.kopt", **options)
    assert "None" not in str(caught.value)


def test_the_package_is_the_function_whatever_was_imported_first() -> None:
    assert inspect.signature(kopt.check) == inspect.signature(api.check)
    for first in ("", "import kopt.check.verdict; ", "from kopt import check; "):
        script = f"{first}import kopt; kopt.check('x', baseline='y')"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "FileError: 'x' does not exist" in done.stderr, done.stderr
