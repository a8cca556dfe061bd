"""Tuning whole models: fake programs that sleep, crash, hang and lie; kills and interrupts; a warm database; the batch curve."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import psutil
import pytest

from kopt import compiler, tune
from kopt.autotune.database import TrialDatabase
from kopt.autotune.record import SCHEMA
from kopt.buckets import plan
from kopt.candidates import CONVOLUTIONS, XLA_OPTIONS, program_space, recipe_of, thread_choices
from kopt.errors import ToolchainError, UsageError
from kopt.frontend.load import load
from kopt.hardware import Target
from kopt.tune import Tuning, tune_program
from support import fake_programs, graphs

MODEL = "m (float[N,3] x) => (float[N,3] y) { a = Softmax(x) y = Relu(a) }"
CONV = """m (float[1,4,8,8] x) => (float[1,8,8,8] y) {
    s = Constant<value_ints=[8,4,3,3]>() w = ConstantOfShape<value=float[1]{0.1}>(s) y = Conv<pads=[1,1,1,1]>(x, w) }"""
CPU = Target.parse("cpu")


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Tunes a small model with fake programs; the database stays between calls."""
    fake_programs.install(monkeypatch.setattr)
    graph, _ = compiler.import_graph(load(graphs.model(MODEL)))

    def run(budget_s: float, *, batches=(1,), curve=(), **more):
        planned, buckets = plan(graph, (*batches, *curve), {})
        told = []
        tuning = Tuning(budget_s, database=tmp_path / "t.db", **more)
        base, rest = buckets[: len(batches)], buckets[len(batches) :]
        found = tune_program(planned, base, CPU, tuning, threads=1, curve=[*base, *rest] if rest else (), progress=told.append)
        assert not children()
        return found, told

    return run


def test_the_fastest_program_is_found_and_reported(fake, tmp_path) -> None:
    found, told = fake(10.0)
    assert (found.config["xla"], found.config["program"] in ("xla", "xla-kernels")) == ("program-order", True)
    trials = found.report["trials"]
    times = [one["best_us"] for one in trials]
    assert times == sorted(times, reverse=True)
    assert [one["elapsed_s"] for one in trials] == sorted(one["elapsed_s"] for one in trials)
    assert found.report["race"][0]["ratio"] == 1.0
    assert found.report["chosen"] == found.config
    assert found.batches == ()
    assert any("best" in line and "s left" in line for line in told)
    with TrialDatabase(tmp_path / "t.db") as database:
        assert len(database.run_trials(found.report["run"])) == len(trials)


def test_a_warm_database_answers_at_once(fake) -> None:
    first, _ = fake(6.0)
    begun = time.monotonic()
    again, told = fake(6.0)
    assert time.monotonic() - begun < 2.0
    assert again.config == first.config
    assert again.report["from_database"]
    assert again.report["trials"] == []
    assert told == ["tuning: the database knows this model"]
    more, _ = fake(7.0, seed=1)
    assert not more.report["from_database"]
    assert more.report["num_known"] == len(first.report["trials"])


def test_sabotaged_candidates_change_nothing(fake, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_SABOTAGE", "1")
    found, _ = fake(16.0)
    assert found.config["xla"] == "program-order"
    assert sum(found.report["failures"].values()) == len([one for one in found.report["trials"] if "failure" in one]) > 0
    assert all(one["p50_us"] is None for one in found.report["trials"] if "failure" in one)


def test_the_batch_is_chosen_from_a_curve(fake) -> None:
    found, _ = fake(10.0, curve=(4, 16), objective="throughput")
    points = found.report["batches"]
    assert [point["batch"] for point in points] == [1, 4, 16]
    assert found.batches == (16,)
    assert [point["knee"] for point in points] == [False, False, True]


def test_nothing_works(fake, monkeypatch) -> None:
    monkeypatch.setattr(tune, "_ENTRY", "support.trial_entries:candidate")
    with pytest.raises(ToolchainError, match="no candidate works"):
        fake(4.0)
    assert not children()


def start(folder, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "support.fake_programs", "tune", "m.onnx", "--budget", "30s", "--db", "t.db", "--no-measure", *more]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1", "COLUMNS": "300"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cut_off(folder, seed: int, how: signal.Signals) -> int:
    """Kill a tuner after some trials; every trial it told of must be in the database, and no process may be left."""
    process = start(folder, "--resume", "--seed", str(seed))
    told = 0
    wanted = random.Random(seed).randint(1, 4)
    for line in process.stderr:
        told += line.startswith("tuning: trial")
        if told >= wanted:
            break
    time.sleep(random.Random(-seed).uniform(0.0, 0.6))
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    told += sum(line.startswith("tuning: trial") for line in process.communicate(timeout=60)[1].splitlines())
    psutil.wait_procs(family, timeout=10)
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    with TrialDatabase(folder / "t.db") as database:
        found = len(database.trials())
        assert all(record.kind in {"measured", "slow"} for record in database.trials())
    return process.returncode if how == signal.SIGINT else found - told


@pytest.fixture
def folder(tmp_path):
    onnx.save(graphs.model(MODEL), tmp_path / "m.onnx")
    return tmp_path


def test_an_interrupt_keeps_the_trials_and_resuming_goes_on(folder) -> None:
    assert cut_off(folder, 1, signal.SIGINT) == 130
    with TrialDatabase(folder / "t.db") as database:
        before = database.trials()
    process = start(folder, "--resume", "--budget", "8s", "--seed", "1", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert before[0].run in out
    assert (folder / "m.kopt" / "manifest.json").exists()
    with TrialDatabase(folder / "t.db") as database:
        keys = [record.config_key for record in database.run_trials(before[0].run)]
    assert len(set(keys)) == len(keys) > len(before)


def test_a_killed_tuner_loses_no_finished_trial(folder) -> None:
    assert 0 <= cut_off(folder, 2, signal.SIGKILL) <= 1


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(50))
def test_tuners_killed_at_fifty_points_lose_no_finished_trial(folder, seed) -> None:
    assert 0 <= cut_off(folder, seed, signal.SIGKILL) <= 1


@pytest.mark.nightly
def test_eight_tuners_at_once_share_one_database(folder) -> None:
    """Every trial that any of them told of is a row, readable and in the name of its run."""
    tuners = [start(folder, "--budget", "20s", "--seed", str(seed), "--json", "-o", f"{seed}.kopt") for seed in range(8)]
    reports = []
    for tuner in tuners:
        out, err = tuner.communicate(timeout=300)
        assert tuner.returncode == 0, err
        reports.append(json.loads(out)["search"])
    with TrialDatabase(folder / "t.db") as database:
        for report in reports:
            rows = [record for record in database.run_trials(report["run"]) if not record.run.startswith("final:")]
            assert [record.p50_us for record in rows] == [trial["p50_us"] for trial in report["trials"]]
        assert len({report["run"] for report in reports}) == 8


def test_real_programs_of_a_small_model(tmp_path) -> None:
    artifact = compiler.compile(
        graphs.model(CONV), output=tmp_path / "c.kopt", measure=False, tuning=Tuning(1.0, database=tmp_path / "t.db")
    )
    search = artifact.report["search"]
    assert search["chosen"]["program"] in ("xla-kernels", "xla")
    assert [one["kind"] for one in search["trials"]] == ["measured"]
    again = compiler.compile(graphs.model(CONV), output=tmp_path / "d.kopt", measure=False, tuning=Tuning(1.0, database=tmp_path / "t.db"))
    assert again.report["search"]["from_database"]
    assert SCHEMA == 1


def test_the_space_fits_the_model() -> None:
    softmax, conv = (compiler.import_graph(load(graphs.model(text)))[0] for text in (MODEL, CONV))
    space = program_space(softmax, CPU, precisions=("fp32", "bf16"), threads=(2, 1), kernels=False)
    assert {knob.name: knob.choices for knob in space.knobs} == {
        "program": ("xla", "xla-attention"),
        "precision": ("fp32", "bf16"),
        "threads": (2, 1),
        "xla": tuple(XLA_OPTIONS),
    }
    space = program_space(conv, CPU, precisions=("fp32",), threads=(1,), kernels=False)
    assert {knob.name for knob in space.knobs} == {"program", "precision", "threads", "xla", "conv3x3"}
    assert "onnx" in space.knobs[0].choices
    assert space.default() == {"program": "xla", "precision": "fp32", "threads": 1, "xla": "default", "conv3x3": CONVOLUTIONS[0]}


def test_every_config_is_a_recipe() -> None:
    graph, _ = compiler.import_graph(load(graphs.model(CONV)))
    space = program_space(graph, CPU, precisions=("fp32", "bf16", "fp16"), threads=(2, 1))
    recipes = {str(recipe_of(config, CPU).to_json()) for config in space.enumerate()}
    assert len(recipes) > space.num_combinations / 8
    assert recipe_of(space.default(), CPU) == compiler.recipe_for(compiler.Request(None, CPU, None))


@pytest.mark.parametrize(("cores", "wanted"), [(1, (1,)), (2, (2, 1)), (6, (6, 3, 2, 1)), (16, (16, 8, 4, 2, 1))])
def test_thread_counts(cores, wanted) -> None:
    assert thread_choices(cores) == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Tuning(1.0, objective="speed"),
        lambda: compiler.compile("m.onnx", batch="auto"),
        lambda: compiler.compile("m.onnx", budget="soon"),
        lambda: compiler.compile("m.onnx", budget="1m", batch="many"),
        lambda: compiler.compile(graphs.model(MODEL), budget="1m", target="cuda", output="x"),
        lambda: compiler.compile(graphs.model(MODEL), budget="1m", options={"a": 1}, output="x"),
    ],
)
def test_wrong_requests(wrong, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        wrong()


def test_what_files_lack_is_made_comparable() -> None:
    import ml_dtypes

    from kopt.candidates import comparable

    assert comparable(np.ones(2, ml_dtypes.bfloat16)).dtype == np.float32
    assert comparable(np.ones(2, np.float16)).dtype == np.float16
