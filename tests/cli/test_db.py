"""`kopt db`: results, exit codes and messages."""

from __future__ import annotations

import json

import pytest

from kopt.autotune.database import TrialDatabase
from kopt.autotune.record import Surroundings
from kopt.hardware import Target
from kopt.trial import Failure
from support.tuning import record


@pytest.fixture
def kopt(tmp_path, invoked):
    """Runs `kopt db` in a folder with a database of four trials; gives exit code, stdout and stderr."""
    here = Surroundings(Target.parse("cpu").fingerprint)
    with TrialDatabase(tmp_path / "a.db") as database:
        database.add_all([record(1, 5.0, surroundings=here), record(2, 3.0, surroundings=here), record(3, Failure("crash", "SIGSEGV"))])
        database.add(record(4, 1.0, foreign=True))

    return lambda text: invoked(f"db {text}")


def test_show(kopt) -> None:
    code, out, _ = kopt("show --db a.db")
    assert code == 0
    assert "a.db: 4 trials" in out
    assert "x=2" in out
    assert "crash=1" in out
    code, out, _ = kopt("show --db a.db --json")
    rows = json.loads(out)["rows"]
    assert [(row["trials"], row["best_us"]) for row in rows] == [(2, 3.0), (1, None), (1, 1.0)]
    assert [row["origin"] for row in rows][1:] == ["here", "foreign"]
    _, out, _ = kopt("show --db a.db --workload gemm --json")
    assert [row["detail"] for row in json.loads(out)["rows"]].count("SIGSEGV") == 1
    _, out, _ = kopt("show --db a.db --workload conv --json")
    assert json.loads(out)["trials"] == 0
    assert kopt("show --db a.db --workload conv")[0] == 0


def test_export_import_and_merge(kopt, tmp_path) -> None:
    code, out, _ = kopt("export --db a.db -o a.jsonl")
    assert (code, out.strip()) == (0, "a.jsonl")
    assert kopt("export --db a.db")[1] == (tmp_path / "a.jsonl").read_text()
    assert json.loads(kopt("import a.jsonl --db b.db --json")[1]) == {"added": 4}
    assert "0 new trials" in kopt("import a.jsonl --db b.db")[1]
    assert "4 new trials" in kopt("merge a.db --db c.db")[1]
    with TrialDatabase(tmp_path / "c.db") as database:
        assert all(one.foreign for one in database.records())


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        ("--keep 1", {2, 4}),
        ("--older-than 1s", set()),
        ("--foreign", {1, 2, 3}),
        ("--other-hardware", {1, 2}),
        ("--older-than 50000d", {1, 2, 3, 4}),
    ],
)
def test_prune(kopt, tmp_path, flags, left) -> None:
    assert json.loads(kopt(f"prune --db a.db {flags} --json")[1]) == {"removed": 4 - len(left)}
    with TrialDatabase(tmp_path / "a.db") as database:
        assert {one.config["x"] for one in database.records()} == left


def test_repair(kopt, tmp_path) -> None:
    content = (tmp_path / "a.db").read_bytes()
    (tmp_path / "a.db").write_bytes(b"nonsense" * 1000)
    code, _, err = kopt("show --db a.db")
    assert (code, "kopt db repair --db a.db" in err) == (74, True)
    code, out, _ = kopt("repair --db a.db")
    assert (code, "0 trials saved" in out) == (0, True)
    assert (tmp_path / "a.db.damaged-1").exists()
    (tmp_path / "a.db").write_bytes(content)
    assert json.loads(kopt("repair --db a.db --json")[1])["saved"] == 4


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("forget --db a.db", 2, "unknown action 'forget'"),
        ("show --db no.db", 74, "no tuning database"),
        ("repair --db no.db", 74, "no tuning database"),
        ("import --db a.db", 2, "needs the file of records"),
        ("show x --db a.db", 2, "takes no file"),
        ("import no.jsonl --db a.db", 74, "cannot read"),
        ("import a.db --db b.db", 2, "not"),
        ("merge no.db --db a.db", 74, "no tuning database"),
        ("prune --db a.db", 2, "nothing says what to prune"),
        ("prune --db a.db --keep -1", 2, "cannot be kept"),
        ("prune --db a.db --older-than soon", 2, "not a duration"),
        ("export --db a.db -o no/where.jsonl", 74, "no such folder"),
    ],
)
def test_mistakes(kopt, text, code, words) -> None:
    found, out, err = kopt(text)
    assert (found, words in err, out) == (code, True, ""), err
