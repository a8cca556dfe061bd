"""The trend over stored outcomes: steps are found, noise and outliers are none, and reports are read as `kopt check` writes them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kopt import errors
from kopt.check import trend as t
from kopt.check.gate import Outcome, Samples
from kopt.check.json_output import to_json
from kopt.check.judge import Result
from kopt.check.verdict import Verdict
from kopt.cli.main import invoke
from support.runs import process_run


def series(rng, *levels, noise=0.02):
    return [level * float(np.exp(rng.normal(0, noise))) for level, count in levels for _ in range(count)]


def changes(values, **options):
    return t.find_changes(values, [f"night {number}" for number in range(len(values))], **options)


def test_steps_are_found_where_they_are(rng) -> None:
    found = changes(series(rng, (1.0, 20), (1.1, 20), (0.9, 20)))
    assert [abs(one.index - at) <= 1 for one, at in zip(found, (20, 40), strict=True)] == [True, True]
    assert [one.worse for one in found] == [True, False]
    assert found[0].change == pytest.approx(0.1, abs=0.02)
    assert (found[0].before, found[1].after) == (pytest.approx(1.0, abs=0.02), pytest.approx(0.9, abs=0.02))
    assert found[0].report == f"night {found[0].index}"
    assert found[0].p_value < 0.001


def test_more_throughput_is_better(rng) -> None:
    values = series(rng, (100.0, 10), (120.0, 10))
    assert [one.worse for one in changes(values, higher_is_better=True)] == [False]
    assert [one.worse for one in changes(values)] == [True]


def test_noise_small_steps_and_outliers_are_no_changes(rng) -> None:
    assert sum(bool(changes(series(rng, (1.0, 40), noise=0.05))) for _ in range(200)) <= 2
    assert changes(series(rng, (1.0, 20), (1.03, 20), noise=0.002)) == ()
    spiked = series(rng, (1.0, 40))
    spiked[7] *= 2
    assert changes(spiked) == ()
    assert changes([1.0] * 30) == changes([1.0, 2.0]) == changes([]) == changes([0.0] * 9) == ()


def test_exact_figures_change_without_noise() -> None:
    (found,) = changes([100.0] * 5 + [120.0] * 4)
    assert (found.index, found.worse) == (5, True)


def report(folder, number, slowdown=0.0, rng=None, machine="here"):
    rng = rng or np.random.default_rng(number)
    runs = tuple(process_run(rng, slowdown) for _ in range(3))
    size = Result("net", 8, "artifact_size", Verdict.PASS, 2e6, 1e6 if number < 6 else 1.2e6, 1e6, 1e6)
    outcome = Outcome((size, replace(size, key="max_regression", value=0.3)), (Samples("net", 8, runs),), machine, 0)
    (folder / f"night-{number:02}.json").write_text(to_json(outcome))


@pytest.fixture
def nights(tmp_path):
    for number in range(12):
        report(tmp_path, number, 0.1 if number >= 6 else 0.0)
    return tmp_path


def test_reports_of_a_directory(nights, capsys) -> None:
    found = {one.key: one for one in t.trend_of(t.report_files([nights]))}
    assert set(found) == {"p50", "load_time", "peak_memory", "artifact_size"}
    assert [one.report for one in found["p50"].changes] == ["night-06.json"]
    assert [one.report for one in found["artifact_size"].changes] == ["night-06.json"]
    assert found["load_time"].changes == ()
    assert invoke(["trend", str(nights)]) == 0
    text = capsys.readouterr().out
    assert "worse +20.0% since" in text
    assert "machine" not in text
    assert invoke(["trend", str(nights), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == 1
    assert {one["key"]: len(one["values"]) for one in content["series"]} == dict.fromkeys(found, 12)


def test_machines_are_never_mixed(nights, capsys) -> None:
    report(nights, 12, machine="there")
    assert invoke(["trend", *map(str, t.report_files([nights]))]) == 0
    assert "there" in capsys.readouterr().out
    assert {(one.machine, len(one.values)) for one in t.trend_of(t.report_files([nights]))} == {("here", 12), ("there", 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"schema": 9}', "no report of schema 1"),
        ("[]", "no report"),
        ('{"schema": 1}', "incomplete"),
        (None, "there is no"),
    ],
)
def test_what_is_no_report_is_named(tmp_path, text, message) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(errors.KoptError, match=message) as caught:
        t.trend_of(t.report_files([tmp_path / "a.json"]))
    assert "a.json" in str(caught.value)
    with pytest.raises(errors.FileError, match="there is no report"):
        t.report_files([tmp_path / "absent"])
