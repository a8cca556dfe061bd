"""Trials in children that really crash, hang, eat memory and compute nonsense; nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from kopt.errors import ToolchainError, UsageError
from kopt.trial import Failure, Limits, Measured, Timing, TrialPool, TrialRequest, outcome_from_json, outcome_to_json, run_trial

ENTRY = "support.trial_entries:candidate"
LIMITS = Limits(seconds=20.0)
SHORT = Limits(seconds=0.4)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "outputs.npz"
    np.savez(path, **{"0": np.arange(16, dtype=np.float32) * 2})
    return path


@pytest.fixture
def pool():
    with TrialPool("support.trial_entries", limits=LIMITS) as pool:
        yield pool
    assert not children()


def children() -> list[psutil.Process]:
    """Running descendants of this process."""
    return [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def request(reference=None, **payload) -> TrialRequest:
    return TrialRequest(ENTRY, payload, reference)


def test_a_right_candidate_is_timed(pool, reference) -> None:
    found = pool.run(request(reference, x=3))
    assert isinstance(found, Measured)
    assert found.complete
    assert found.error == 0.0
    assert found.facts["x"] == 3
    assert found.measurement.num_samples >= 5
    assert found.p50_us > 0
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("how", "kind", "detail"),
    [
        ("segfault", "crash", "SIGSEGV"),
        ("signal", "crash", "SIGSEGV"),
        ("late", "crash", "SIGSEGV"),
        ("abort", "crash", "SIGABRT"),
        ("exit", "crash", "exited with code 7: last words"),
        ("no memory", "memory", "cannot have it"),
        ("bad_alloc", "memory", "bad_alloc"),
        ("raise", "error", "ValueError: this schedule is not valid"),
        ("wrong", "wrong", "differs by 0.017 of the largest value"),
        ("nan", "wrong", "NaN"),
        ("shape", "wrong", "shape [15] instead of [16]"),
        ("more", "wrong", "2 outputs instead of 1"),
    ],
)
def test_every_failure_has_its_kind(pool, reference, how, kind, detail) -> None:
    found = pool.run(request(reference, how=how))
    assert isinstance(found, Failure)
    assert (found.kind, detail in found.detail) == (kind, True), found
    assert isinstance(pool.run(request(reference)), Measured)


@pytest.mark.parametrize("how", ["hang", "lock", "close"])
def test_a_hanging_candidate_is_ended(pool, reference, how) -> None:
    found = pool.run(request(reference, how=how), SHORT)
    assert isinstance(found, Failure)
    assert found.kind == ("crash" if how == "close" else "hang")
    assert isinstance(pool.run(request(reference)), Measured)


def test_memory_is_watched(pool, reference) -> None:
    found = pool.run(request(reference, how="eat"), Limits(seconds=60.0, memory_bytes=400 << 20))
    assert isinstance(found, Failure)
    assert found.kind == "memory"
    assert "allowed" in found.detail


def test_the_address_space_can_be_bounded(reference) -> None:
    found = run_trial(request(reference, how="eat"), Limits(seconds=60.0, address_bytes=2 << 30), {"OPENBLAS_NUM_THREADS": "1"})
    assert isinstance(found, Failure)
    assert found.kind == "memory"
    assert not children()


def test_a_candidate_that_prints_without_end_of_lines_does_no_harm(pool, reference) -> None:
    assert isinstance(pool.run(request(reference, how="shout")), Measured)


def test_a_child_serves_many_trials_and_survives_an_exception(pool, reference) -> None:
    first = pool.run(request(reference))
    pool.run(request(reference, how="raise"))
    again = pool.run(request(reference))
    pool.run(request(reference, how="wrong"))
    fresh = pool.run(request(reference))
    assert first.facts["pid"] == again.facts["pid"] != fresh.facts["pid"]


def test_children_are_replaced_after_a_number_of_trials(reference) -> None:
    with TrialPool("support.trial_entries", limits=LIMITS, max_trials=2) as pool:
        pids = [pool.run(request(reference)).facts["pid"] for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_slow_candidates_are_given_up_early(pool, reference) -> None:
    slow = TrialRequest(ENTRY, {"sleep_s": 0.01}, reference, timing=Timing(block_s=10.0, max_s=20.0, give_up_ns=1_000_000))
    found = pool.run(slow)
    assert isinstance(found, Measured)
    assert not found.complete
    assert found.measurement.num_samples == 3
    fast = TrialRequest(ENTRY, {}, reference, timing=Timing(block_s=0.01, give_up_ns=10**9))
    assert pool.run(fast).complete


def test_core_files_are_off_and_the_group_is_its_own(pool) -> None:
    pid = pool.run(request()).facts["pid"]
    assert os.getpgid(pid) == pid != os.getpgid(0)
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]


@pytest.mark.parametrize("how", ["family here", "family away"])
def test_descendants_end_with_a_hanging_candidate(pool, tmp_path, how) -> None:
    told = tmp_path / "pids"
    found = pool.run(request(how=how, tell=str(told)), Limits(seconds=1.5))
    assert found.kind == "hang"
    assert all(gone(int(pid)) for pid in told.read_text().split())


PARENT = """
import sys
from kopt.trial import Limits, TrialPool, TrialRequest
with TrialPool("support.trial_entries", limits=Limits(seconds=600)) as pool:
    {start}
"""
DIRECT = "pool.run(TrialRequest('support.trial_entries:candidate', {'how': 'family here', 'tell': sys.argv[1]}))"
THREADED = f"import threading; t = threading.Thread(target=lambda: {DIRECT}); t.start(); t.join()"


@pytest.mark.parametrize("start", [DIRECT, THREADED])
def test_nobody_survives_a_killed_parent(tmp_path, start) -> None:
    told = tmp_path / "pids"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(start=start), str(told)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        deadline = time.monotonic() + 30
        while not (told.exists() and len(told.read_text().split()) == 2):
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.02)
        group = os.getpgid(int(told.read_text().split()[0]))
        members = [one.pid for one in psutil.process_iter() if one.pid != 0 and _group(one.pid) == group]
        assert len(members) == 3  # the child, its guard, and what the candidate started
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert all(gone(pid) for pid in members)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def test_an_interrupt_leaves_no_busy_child() -> None:
    with TrialPool("support.trial_entries", limits=LIMITS) as pool:
        pool.run(request())
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            pool.run(request(how="hang"))
        assert not children()
        assert isinstance(pool.run(request()), Measured)
    assert not children()


def _interrupt(number, frame) -> None:
    raise KeyboardInterrupt


def test_a_pool_that_cannot_start_says_why() -> None:
    with TrialPool("support.no_such_module") as pool, pytest.raises(ToolchainError, match="no_such_module"):
        pool.run(request())
    assert not children()


def test_trials_run_side_by_side_where_asked() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with TrialPool("support.trial_entries", limits=LIMITS, num_children=2) as pool, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda k: pool.run(request(x=k, how="signal" if k % 3 == 2 else "")), range(12)))
    assert [one.kind if isinstance(one, Failure) else one.facts["x"] for one in found] == ["crash" if k % 3 == 2 else k for k in range(12)]
    assert not children()


def test_outcomes_survive_json(pool, reference) -> None:
    for outcome in (pool.run(request(reference)), pool.run(request(reference, how="raise"))):
        assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


@pytest.mark.parametrize("broken", [{}, {"failure": "tired", "detail": "", "seconds": 0}, {"blocks_ns": [[]], "complete": True}])
def test_broken_outcomes_are_refused(broken) -> None:
    with pytest.raises(UsageError, match="not the outcome"):
        outcome_from_json(broken)
