"""The database of trials: what is filed stays, foreign times count for nothing, damage is noticed and repaired."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time

import pytest

from kopt.autotune.database import TrialDatabase, export_lines, import_lines, repair
from kopt.autotune.record import MAX_SAMPLES, Surroundings, TrialRecord
from kopt.errors import FileError, UsageError
from kopt.measure import Measurement
from kopt.space import Workload
from kopt.trial import Failure, Measured
from support.tuning import GEMM, HERE, THERE, measured, record


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tuning.db"


@pytest.fixture
def database(path):
    with TrialDatabase(path) as database:
        yield database


def writer(path, name: str, count: int) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "support.tuning", str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_what_is_filed_comes_back(database) -> None:
    records = [record(0, 3.0), record(1, Failure("hang", "no answer", 10.0)), record(2, measured(9.0, complete=False))]
    assert database.add_all(records) == 3
    assert database.add_all(records) == 0
    assert database.trials() == records
    assert [one.kind for one in database.trials()] == ["measured", "hang", "slow"]
    assert database.run_trials("r") == records
    assert database.run_trials("other") == []


def test_times_are_seen_only_where_they_were_made(database) -> None:
    newer = Surroundings("here", {"jaxlib": "2"})
    database.add_all([record(0, 5.0), record(1, 2.0, surroundings=THERE), record(2, 1.0, surroundings=newer)])
    assert database.best(GEMM, HERE).config == {"x": 0}
    assert database.best(GEMM, newer).config == {"x": 2}
    assert database.best(Workload("gemm"), HERE) is None
    assert [one["x"] for one in database.hints(GEMM, HERE, "tvm")] == [1, 2]
    assert database.hints(GEMM, HERE, "xla") == []


def test_the_best_is_neither_failed_nor_rough_and_counts_with_its_latest_time(database) -> None:
    database.add_all([record(0, measured(1.0, complete=False)), record(1, Failure("wrong")), record(2, 5.0), record(3, 6.0)])
    assert database.best(GEMM, HERE).config == {"x": 2}
    database.add(record(2, 9.0, created=5000.0))
    assert database.best(GEMM, HERE).config == {"x": 3}
    assert database.best(GEMM, HERE, "xla") is None


def test_foreign_records_are_hints_until_measured_here(database, tmp_path) -> None:
    with TrialDatabase(tmp_path / "other.db") as other:
        other.add_all([record(7, 0.5), record(8, 0.7), record(9, Failure("crash"))])
    assert database.merge(tmp_path / "other.db") == 3
    assert database.merge(tmp_path / "other.db") == 0
    assert database.trials() == []
    assert database.best(GEMM, HERE) is None
    assert all(one.foreign for one in database.records())
    assert [one["x"] for one in database.hints(GEMM, HERE, "tvm")] == [7, 8]
    database.add(record(7, 4.0, created=9000.0))
    assert database.best(GEMM, HERE).p50_us == 4.0
    assert [one["x"] for one in database.hints(GEMM, HERE, "tvm")] == [7, 8]


def test_a_fast_machine_does_not_crowd_out_the_others(database) -> None:
    fast = [record(k, 0.1 + k / 100, surroundings=Surroundings("fast")) for k in range(5)]
    slow = [record(k, 90.0 + k, surroundings=Surroundings("slow")) for k in (10, 11)]
    database.add_all(fast + slow)
    assert [one["x"] for one in database.hints(GEMM, HERE, "tvm", limit=4)] == [0, 10, 11, 1]


def test_export_and_import(database, tmp_path) -> None:
    database.add_all([record(0), record(1, Failure("memory", "too much"))])
    lines = list(export_lines(database))
    with TrialDatabase(tmp_path / "other.db") as other:
        assert import_lines(other, [*lines, "", "\n"]) == 2
        assert list(export_lines(other)) == lines
        for broken in ("{", "[]", '{"schema": 99}', lines[0].replace("p", "q"), lines[0].replace('"failure"', '"f"')[:-4]):
            with pytest.raises(UsageError, match="line 2"):
                import_lines(other, [lines[0], broken])
        assert len(list(other.records())) == 2
    assert import_lines(database, lines) == 0
    assert len(database.trials()) == 2


def test_many_samples_are_thinned(database) -> None:
    samples = tuple(range(1000, 11_000))
    database.add(record(0, Measured(Measurement((samples[:5000], samples[5000:])))))
    (found,) = database.trials()
    assert found.outcome.measurement.num_samples <= MAX_SAMPLES
    assert len(found.outcome.measurement.blocks_ns) == 2
    assert found.p50_us == pytest.approx(6.0, rel=0.02)
    assert TrialRecord.from_json(found.to_json()) == found


def test_prune(database) -> None:
    database.add_all([record(k, 1.0 + k, created=time.time()) for k in range(5)])
    database.add_all([record(9, Failure("crash"), created=time.time()), record(0, 1.0, surroundings=THERE, created=1.0)])
    assert database.prune(older_than_s=3600) == 1
    assert database.prune(keep=2) == 4
    assert [one.config["x"] for one in database.trials()] == [0, 1]
    database.add(record(0, 1.0, surroundings=THERE, foreign=True))
    assert database.prune(foreign=True) == 1
    assert database.prune(other_hardware_than=HERE.hardware) == 0
    assert database.prune(other_hardware_than=THERE.hardware) == 2
    assert database.prune() == 0


def test_eight_writers_at_once(path) -> None:
    writers = [writer(path, f"w{k}", 40) for k in range(8)]
    assert [one.communicate(timeout=120)[0].split() for one in writers] == [list(map(str, range(40)))] * 8
    assert [one.returncode for one in writers] == [0] * 8
    with TrialDatabase(path) as database:
        for k in range(8):
            found = database.run_trials(f"w{k}")
            assert [one.config["x"] for one in found] == list(range(40))
            assert [one.kind for one in found] == ["crash" if x % 5 == 4 else "measured" for x in range(40)]
            assert [one.p50_us for one in found if one.kind == "measured"] == [1.0 + x for x in range(40) if x % 5 != 4]


def killed_writer_loses_nothing(path, seed: int) -> None:
    process = writer(path, f"w{seed}", 100_000)
    first = process.stdout.readline()
    time.sleep(random.Random(seed).uniform(0.0, 0.1))
    process.kill()
    told = len((first + process.stdout.read()).splitlines())
    process.wait()
    process.stdout.close()
    with TrialDatabase(path) as database:
        found = [one.config["x"] for one in database.run_trials(f"w{seed}")]
        assert found == list(range(len(found)))
        assert told <= len(found) <= told + 1
        database.add(record(-1, run=f"after {seed}"))


def test_a_killed_writer_loses_no_finished_trial(path) -> None:
    for seed in range(3):
        killed_writer_loses_nothing(path, seed)


@pytest.mark.nightly
def test_writers_killed_at_fifty_points_lose_no_finished_trial(path) -> None:
    for seed in range(50):
        killed_writer_loses_nothing(path, seed)


@pytest.mark.parametrize("content", [b"not a database at all, whatever its name says" * 100, b"SQLite format 3\x00" + b"\x07" * 5000])
def test_a_file_that_is_no_database_is_refused_and_moved_aside(path, content) -> None:
    path.write_bytes(content)
    with pytest.raises(FileError, match="damaged") as caught:
        TrialDatabase(path)
    assert "kopt db repair" in caught.value.next_step
    saved, _, aside = repair(path)
    assert (saved, aside.read_bytes()) == (0, content)
    with TrialDatabase(path) as database:
        database.add(record(1))


def test_a_damaged_page_loses_its_own_rows_only(path) -> None:
    with TrialDatabase(path) as database:
        database.add_all([record(k, 1.0 + k) for k in range(200)])
    content = bytearray(path.read_bytes())
    middle = content.index(b'"x":100', len(content) // 4)
    content[middle - 600 : middle + 600] = b"\xff" * 1200
    path.write_bytes(content)
    with TrialDatabase(path) as database, pytest.raises(FileError, match="damaged"):
        database.trials()
    saved, _, aside = repair(path)
    assert 100 <= saved < 200
    assert aside.exists()
    with TrialDatabase(path) as database:
        assert len(database.trials()) == saved
        assert database.best(GEMM, HERE).p50_us == 1.0


def test_an_altered_row_is_noticed(path) -> None:
    with TrialDatabase(path) as database:
        database.add_all([record(0, 5.0), record(1, 6.0)])
    connection = sqlite3.connect(path)
    connection.execute("UPDATE trials SET content = replace(content, '5000', '1') WHERE config LIKE '%0%'")
    connection.commit()
    connection.close()
    with TrialDatabase(path) as database, pytest.raises(FileError, match="digest"):
        database.best(GEMM, HERE)
    assert repair(path)[:2] == (1, 1)


def test_a_torn_write_ahead_log_is_recovered(path) -> None:
    process = writer(path, "w", 100_000)
    for _ in range(30):
        process.stdout.readline()
    process.kill()
    process.communicate()
    log = path.with_name(path.name + "-wal")
    with log.open("r+b") as file:
        file.truncate(max(0, log.stat().st_size - 20))
    with TrialDatabase(path) as database:
        found = database.run_trials("w")
        assert len(found) >= 29
        database.add(record(7))


def test_a_newer_schema_and_missing_or_forbidden_files_are_refused(path, tmp_path) -> None:
    with pytest.raises(FileError, match="no tuning database"):
        TrialDatabase(path, create=False)
    with pytest.raises(FileError, match="no tuning database"):
        repair(path)
    with TrialDatabase(path) as database, pytest.raises(FileError, match="no tuning database"):
        database.merge(tmp_path / "nowhere.db")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(FileError, match="schema 99"):
        TrialDatabase(path)
    with pytest.raises(FileError):
        TrialDatabase(tmp_path)
    with pytest.raises(FileError):
        TrialDatabase(path / "below" / "a_file.db")
