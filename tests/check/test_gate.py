"""Which limits hold, which baseline belongs to an artifact, and that stored samples and seed decide the outcome."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import kopt
from kopt import errors
from kopt.artifact import Artifact
from kopt.check import gate as gates
from kopt.check.baseline import record
from kopt.check.budget import Budget
from kopt.check.gate import Gate, Wanted, find_baseline, wanted_limits
from kopt.check.json_output import to_json
from kopt.check.measure_pairs import PairProtocol
from kopt.check.verdict import Verdict
from support import graphs
from support.runs import process_run

HERE, THERE = "this processor", "other processor"
MODEL = "m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    kopt.compile(graphs.model(MODEL), output=folder / "old.kopt", batch=(2, 4), measure=False)
    kopt.compile(graphs.model(MODEL.replace("Relu", "Neg")), output=folder / "new.kopt", batch=(2, 4), measure=False)
    kopt.compile(graphs.model(MODEL.replace("Relu", "Abs")), output=folder / "wide.kopt", batch=8, measure=False)
    return folder


@pytest.fixture
def measured(monkeypatch):
    """Replaces measuring; the candidate is as much slower as the test says. Gives the calls made."""
    calls, slowdown = [], {"value": 0.0}

    def measure(baseline, candidate, feeds, *, number, seed, **_):
        calls.append((baseline, candidate, {name: array.shape for name, array in feeds.items()}))
        rng = np.random.default_rng([seed, number])
        return process_run(rng, slowdown["value"], alone=baseline is None)

    monkeypatch.setattr(gates, "measure_process", measure)
    return calls, slowdown


def evaluate(path, baseline=None, budgets=(), **options):
    return Gate(tuple(budgets), baseline, PairProtocol(), machine=HERE, **options).evaluate([path])


def test_limits_are_selected_by_model_batch_and_machine() -> None:
    budgets = [
        Budget(1, "net*", None, None, {"p50": 1.0}),
        Budget(4, None, 8, THERE, {"p50": 2.0, "p90": 3.0}),
        Budget(9, "other", None, None, {"p50": 4.0}),
    ]
    assert wanted_limits(budgets, "net", 1, HERE, has_baseline=False) == [Wanted("p50", 1.0, 1)]
    both = wanted_limits(budgets, "net", 8, HERE, has_baseline=True)
    assert both == [Wanted("p50", 1.0, 1), Wanted("p90", 3.0, 4, foreign=True), Wanted("max_regression", 0.05)]


def test_every_batch_is_judged_on_its_own_inputs(made, measured) -> None:
    calls, _ = measured
    limits = {"p50": 2e-3, "throughput": 1e6, "artifact_size": 1e9, "accuracy_drop": 1e-3}
    outcome = evaluate(made / "new.kopt", budgets=[Budget(1, limits=limits)])
    assert [(one.batch, one.key, one.verdict.value) for one in outcome.results] == [
        (2, "p50", "pass"),
        (2, "throughput", "fail"),
        (2, "artifact_size", "pass"),
        (2, "accuracy_drop", "pass"),
        (4, "p50", "pass"),
        (4, "throughput", "fail"),
        (4, "accuracy_drop", "pass"),
    ]
    assert [shapes["x"] for _, _, shapes in calls] == [(2, 3)] * 3 + [(4, 3)] * 3
    assert outcome.verdict is Verdict.FAIL


@pytest.mark.parametrize(("slowdown", "verdict"), [(0.0, Verdict.PASS), (0.3, Verdict.FAIL), (-0.3, Verdict.PASS)])
def test_regressions(made, measured, slowdown, verdict) -> None:
    calls, change = measured
    change["value"] = slowdown
    outcome = evaluate(made / "new.kopt", made / "old.kopt")
    assert outcome.verdict is verdict
    assert [one.key for one in outcome.results] == ["max_regression"] * 2
    assert {baseline for baseline, _, _ in calls} == {made / "old.kopt"}
    assert to_json(outcome) == to_json(evaluate(made / "new.kopt", made / "old.kopt"))
    assert to_json(outcome) != to_json(evaluate(made / "new.kopt", made / "old.kopt", seed=1))


def test_what_is_not_measured(made, measured) -> None:
    calls, _ = measured
    (one, _) = evaluate(made / "new.kopt", made / "new.kopt").results
    assert (one.verdict, one.note) == (Verdict.PASS, "unchanged, not measured")
    (one, _) = evaluate(made / "new.kopt", made / "wide.kopt").results
    assert (one.verdict, "not compiled for these shapes" in one.note) == (Verdict.INCONCLUSIVE, True)
    (one, _) = evaluate(made / "new.kopt", budgets=[Budget(1, limits={"max_regression": 0.1})]).results
    assert (one.verdict, "--baseline" in one.note) == (Verdict.INCONCLUSIVE, True)
    (one, _) = evaluate(made / "new.kopt", budgets=[Budget(1, machine=THERE, limits={"p99": 0.1})]).results
    assert (one.verdict, HERE in one.note) == (Verdict.INCONCLUSIVE, True)
    assert not calls


def test_baselines_are_found_by_file_name_then_by_model_name(made, tmp_path) -> None:
    artifact = Artifact.open(made / "new.kopt")
    assert find_baseline(None, artifact) is None
    assert find_baseline(tmp_path, artifact) is None
    shutil.copytree(made / "old.kopt", tmp_path / "renamed.kopt")
    (tmp_path / "a folder").mkdir()
    assert find_baseline(tmp_path, artifact)[0] == tmp_path / "renamed.kopt"
    assert record(tmp_path, made / "new.kopt") == tmp_path / "new.kopt"
    assert find_baseline(tmp_path, artifact)[0] == tmp_path / "new.kopt"
    assert record(tmp_path / "renamed.kopt", made / "new.kopt") == tmp_path / "renamed.kopt"
    assert find_baseline(tmp_path / "renamed.kopt", artifact)[1] == artifact.manifest
    assert record(tmp_path, tmp_path / "new.kopt") == tmp_path / "new.kopt"
    with pytest.raises(errors.FileError, match="absent"):
        find_baseline(Path("absent"), artifact)


def test_damaged_artifacts_and_baselines_are_refused(made, tmp_path) -> None:
    for name in ("new", "old"):
        shutil.copytree(made / f"{name}.kopt", tmp_path / f"{name}.kopt")
    (tmp_path / "old.kopt/manifest.json").write_text("{}")
    (tmp_path / "new.kopt/model.onnx").write_bytes(b"")
    with pytest.raises(errors.CorruptArtifactError, match="manifest"):
        evaluate(made / "new.kopt", tmp_path / "old.kopt")
    with pytest.raises(errors.CorruptArtifactError, match="model"):
        evaluate(tmp_path / "new.kopt", made / "old.kopt")
