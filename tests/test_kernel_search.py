"""Searching kernels: workloads of a model are found and counted, real trials are filed, and programs take what was found."""

from __future__ import annotations

import os
import sys

import numpy as np
import onnx
import psutil
import pytest

from kopt import compiler, kernel_search
from kopt.autotune.database import TrialDatabase
from kopt.autotune.record import Surroundings
from kopt.buckets import plan
from kopt.candidates import program_space, recipe_of, schedules_name
from kopt.frontend.load import load
from kopt.hardware import Target
from kopt.kernel_search import KernelTuning, kernel_uses
from kopt.specialize import Recipe, specialize
from kopt.targets.kernels.library import obstacle
from kopt.trial import Limits
from support import graphs

CPU = Target.parse("cpu")
pytestmark = pytest.mark.skipif(obstacle() is not None, reason="kernels cannot be compiled here")


@pytest.fixture
def model():
    """A convolution, two equal products and another."""
    rng = np.random.default_rng(0)
    proto = graphs.model("""m (float[N,16,12,12] x) => (float[N,12,12,40] y) {
        c = Conv<pads=[1,1,1,1]>(x, k) r = Relu(c) t = Transpose<perm=[0,2,3,1]>(r) h = MatMul(t, a) i = MatMul(h, b) y = MatMul(i, d) }""")
    for name, shape in {"k": (64, 16, 3, 3), "a": (64, 64), "b": (64, 64), "d": (64, 40)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 8, name))
    return proto


def tuning(model, tmp_path, database) -> KernelTuning:
    graph, _ = compiler.import_graph(load(model))
    planned, buckets = plan(graph, (1, 2), {})
    uses = kernel_uses(planned, buckets, Recipe.of_preset("xla-kernels", options={"kernels": True}), CPU)
    return KernelTuning(uses, CPU, Surroundings("here", {"threads": "1"}), database, tmp_path, "run", threads=1)


def test_workloads_are_counted(model, tmp_path) -> None:
    with TrialDatabase(tmp_path / "t.db") as database:
        uses = {str(use.workload): use.calls for use in tuning(model, tmp_path, database).uses}
    assert uses == {
        "conv 1x12x12x16 1x12x12x64 f32": 1,
        "conv 2x12x12x16 2x12x12x64 f32": 1,
        "product 144x64 144x64 f32": 2,
        "product 288x64 288x64 f32": 2,
        "product 144x64 144x40 f32": 1,
        "product 288x64 288x40 f32": 1,
    }


def test_a_search_files_real_trials_and_is_remembered(model, tmp_path) -> None:
    told = []
    with TrialDatabase(tmp_path / "t.db") as database:
        search = tuning(model, tmp_path, database)
        assert search.known().schedules == {}
        search.progress = told.append
        found = search.search(20.0)
        rows = {row["workload"]: row for row in found.report["workloads"]}
        assert len(rows) == 6
        assert all(row["p50_us"] > 0 and row["trials"] >= 1 for row in rows.values())
        assert all(row["default_us"] is not None for row in rows.values())
        assert {row["implementation"] for row in rows.values()} <= {"Product", "Conv", "Winograd", "Strassen"}
        assert found.report["failures"] == {}
        assert found.report["peak_gflops"] > 0
        assert told
        records = database.trials()
        assert {record.run for record in records} == {"run"}
        assert all(record.outcome.error <= 1e-4 for record in records)
        again = tuning(model, tmp_path, database).known()
        assert again.schedules == found.schedules  # the database alone gives the same answer


def test_sabotaged_candidates_change_nothing(model, tmp_path, monkeypatch) -> None:
    """A third of the candidates crash, hang, use up memory or give wrong results: each is filed with its kind, and the rest goes on."""
    monkeypatch.setattr(kernel_search, "_MODULE", "support.fake_kernels")
    monkeypatch.setattr(kernel_search, "_ENTRY", "support.fake_kernels:build")
    monkeypatch.setattr(kernel_search, "_LIMITS", Limits(seconds=2.0))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("FAKE_SABOTAGE", "1")
    with TrialDatabase(tmp_path / "t.db") as database:
        search = tuning(model, tmp_path, database)
        search.uses = search.uses[:2]
        found = search.search(25.0)
        kinds = {record.kind for record in database.trials()}
        times = [record.p50_us for record in database.trials() if record.p50_us is not None]
    assert {"crash", "hang", "memory", "wrong"} & kinds
    assert sum(found.report["failures"].values()) > 0
    assert len(found.report["workloads"]) == 2
    assert min(row["p50_us"] for row in found.report["workloads"]) <= 1.3 * min(times)
    assert not [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


def test_a_program_runs_with_the_schedules_found(model, tmp_path) -> None:
    """Schedules that differ from the defaults change the kernels of the program, not its results."""
    from kopt.targets.kernels.schedule import Schedule, space_of

    with TrialDatabase(tmp_path / "t.db") as database:
        uses = tuning(model, tmp_path, database).uses
    graph, _ = compiler.import_graph(load(model))
    planned, buckets = plan(graph, (2,), {})
    schedules = {}
    for use in uses:
        space = space_of(use.kernel, CPU)
        other = next(iter(space.neighbours(space.default())))
        schedules[use.workload.digest] = Schedule(type(use.kernel).__name__, other).to_json()
    space = program_space(planned, CPU, precisions=("fp32",), threads=(1,), schedules=schedules)
    configs = [{**space.default(), "schedules": name} for name in ("default", schedules_name(schedules))]
    assert all(config in space for config in configs)
    assert {**configs[1], "program": "xla"} not in space
    made = [specialize(planned, recipe_of(config, CPU, schedules), CPU, shapes=buckets[0].shapes) for config in configs]
    assert {kernel for kernel, _ in made[0].lowered.kernel_calls}.isdisjoint(kernel for kernel, _ in made[1].lowered.kernel_calls)
    x = np.random.default_rng(1).standard_normal((2, 16, 12, 12)).astype(np.float32)
    usual, tuned = (np.asarray(one.compile()([x])[0]) for one in made)
    np.testing.assert_allclose(tuned, usual, rtol=1e-4, atol=1e-5 * np.abs(usual).max())
