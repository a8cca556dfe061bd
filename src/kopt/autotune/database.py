"""The database of trials: one SQLite file, shared by every process that tunes.

SQLite's write-ahead log keeps what is committed when a process is killed, lets readers and one writer work at once, and is
recovered by whoever opens the file next. Each row carries the digest of its record, so damage inside a row is noticed.
Everything is filed under (workload, surroundings); a search sees its own surroundings' times, and foreign configs as hints only.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from kopt.autotune.record import Surroundings, TrialRecord, canonical
from kopt.errors import FileError, UsageError
from kopt.space import Config, Workload

SCHEMA_VERSION = 1
_BUSY_S = 60.0

_TABLES = """
CREATE TABLE IF NOT EXISTS trials (
    digest TEXT NOT NULL UNIQUE,
    workload TEXT NOT NULL,
    surroundings TEXT NOT NULL,
    implementation TEXT NOT NULL,
    config TEXT NOT NULL,
    kind TEXT NOT NULL,
    p50_us REAL,
    created REAL NOT NULL,
    run TEXT NOT NULL,
    is_foreign INTEGER NOT NULL,
    content TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS trials_by_workload ON trials (workload, surroundings, implementation);
CREATE INDEX IF NOT EXISTS trials_by_run ON trials (run);
"""


def default_path() -> Path:
    """The user's own database."""
    import platformdirs

    return platformdirs.user_data_path("kopt", appauthor=False) / "tuning.db"


class TrialDatabase:
    """An open database; methods may be called from any thread of the process that opened it."""

    def __init__(self, path: Path | None = None, *, create: bool = True) -> None:
        """Open it, and create it where it does not exist.

        Args:
            path: the file; by default the user's own database.
            create: False: a missing file is an error.

        Raises:
            FileError: the file is missing, damaged, of a newer kopt, or cannot be written.
        """
        self.path = path or default_path()
        if not create and not self.path.is_file():
            raise FileError("there is no tuning database", where=str(self.path), next_step="`kopt tune MODEL` makes one")
        self._lock = threading.RLock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot make the folder of the database: {error.strerror}", where=str(self.path)) from None
        with self._errors():
            self._connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise FileError(
                f"the database has schema {version}; this kopt knows {SCHEMA_VERSION}",
                where=str(self.path),
                next_step="update kopt, or name another file with --db",
            )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(
            "PRAGMA synchronous = NORMAL"
        )  # what is committed survives a killed process; a power cut may take the last
        if version < SCHEMA_VERSION:
            with self._writing():
                for statement in _TABLES.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'trials'").fetchone()
        if tables != 1:
            raise sqlite3.DatabaseError("the table of trials is missing")

    def add(self, record: TrialRecord) -> None:
        """File a finished trial; when this returns, killing the process does not lose it.

        Raises:
            FileError: the database is damaged or cannot be written.
        """
        self.add_all([record])

    def add_all(self, records: Iterable[TrialRecord]) -> int:
        """File records in one transaction; those already there are left as they are. How many were new.

        Raises:
            FileError: the database is damaged or cannot be written.
        """
        rows = [_row(record) for record in records]
        with self._writing():
            before = self._connection.total_changes
            self._connection.executemany("INSERT OR IGNORE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            return self._connection.total_changes - before

    def trials(
        self, workload: Workload | None = None, surroundings: Surroundings | None = None, implementation: str | None = None
    ) -> list[TrialRecord]:
        """Trials made in these surroundings (any, if None), oldest first; foreign ones are left out.

        Raises:
            FileError: the database is damaged.
        """
        return list(self._select("is_foreign = 0", workload, surroundings, implementation))

    def best(self, workload: Workload, surroundings: Surroundings, implementation: str | None = None) -> TrialRecord | None:
        """The fastest trial made in these surroundings; a config measured again counts with its latest time."""
        latest = {(record.implementation, record.config_key): record for record in self.trials(workload, surroundings, implementation)}
        measured = [record for record in latest.values() if record.p50_us is not None]
        return min(measured, key=lambda record: record.p50_us or 0.0, default=None)

    def hints(self, workload: Workload, surroundings: Surroundings, implementation: str, limit: int = 16) -> list[Config]:
        """Configs that were fast elsewhere: to be measured first, never to be believed.

        Ordered by their rank in the surroundings they come from, so that a fast machine does not crowd out the others.
        """
        ranks: dict[str, int] = {}
        configs: dict[str, Config] = {}
        groups: dict[str, list[TrialRecord]] = {}
        for record in self._select("1", workload, None, implementation):
            if record.p50_us is not None and (record.foreign or record.surroundings.key != surroundings.key):
                groups.setdefault(record.surroundings.key, []).append(record)
        for group in groups.values():
            for rank, record in enumerate(sorted(group, key=lambda one: one.p50_us or 0.0)):
                ranks[record.config_key] = min(rank, ranks.get(record.config_key, rank))
                configs[record.config_key] = record.config
        return [configs[key] for key in sorted(ranks, key=lambda key: (ranks[key], key))[:limit]]

    def records(self) -> Iterator[TrialRecord]:
        """Every trial, foreign ones too, oldest first.

        Raises:
            FileError: the database is damaged.
        """
        yield from self._select("1", None, None, None)

    def run_trials(self, run: str) -> list[TrialRecord]:
        """The trials of one search, oldest first."""
        return list(self._select("run = ? AND is_foreign = 0", None, None, None, (run,)))

    def merge(self, other: Path) -> int:
        """Take another database's records as foreign ones; how many were new.

        Raises:
            FileError: one of the two is damaged, or the other is missing.
        """
        with TrialDatabase(other, create=False) as source:
            return self.add_all(_as_foreign(source.records()))

    def prune(
        self, *, keep: int | None = None, older_than_s: float | None = None, foreign: bool = False, other_hardware_than: str | None = None
    ) -> int:
        """Remove trials and give the space back; how many were removed.

        Args:
            keep: of each workload, surroundings and implementation, only so many of the fastest; failures go too.
            older_than_s: those made longer ago.
            foreign: those from other databases.
            other_hardware_than: those made on machines with another fingerprint.
        """
        doomed: list[tuple[str, tuple[object, ...]]] = []
        if foreign:
            doomed.append(("is_foreign = 1", ()))
        if older_than_s is not None:
            doomed.append(("created < ?", (time.time() - older_than_s,)))
        if other_hardware_than is not None:
            doomed.append(("json_extract(surroundings, '$.hardware') <> ?", (other_hardware_than,)))
        if keep is not None:
            ranked = (
                "SELECT digest, row_number() OVER (PARTITION BY workload, surroundings, implementation, is_foreign "
                "ORDER BY kind <> 'measured', p50_us) AS place, kind FROM trials"
            )
            doomed.append((f"digest IN (SELECT digest FROM ({ranked}) WHERE place > ? OR kind <> 'measured')", (keep,)))  # noqa: S608
        removed = 0
        with self._writing():
            for condition, values in doomed:
                removed += self._connection.execute(f"DELETE FROM trials WHERE {condition}", values).rowcount  # noqa: S608 - fixed texts
        with self._errors():
            self._connection.execute("VACUUM")
        return removed

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> TrialDatabase:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _select(
        self,
        condition: str,
        workload: Workload | None,
        surroundings: Surroundings | None,
        implementation: str | None,
        values: Sequence[object] = (),
    ) -> Iterator[TrialRecord]:
        parts, given = [condition], list(values)
        for column, value in (
            ("workload", None if workload is None else workload.digest),
            ("surroundings", None if surroundings is None else surroundings.key),
            ("implementation", implementation),
        ):
            if value is not None:
                parts.append(f"{column} = ?")
                given.append(value)
        with self._errors():
            found = self._connection.execute(
                f"SELECT digest, is_foreign, content FROM trials WHERE {' AND '.join(parts)} ORDER BY created, rowid",  # noqa: S608
                given,
            ).fetchall()
        for digest, is_foreign, content in found:
            yield self._record(digest, is_foreign, content)

    def _record(self, digest: str, is_foreign: int, content: str) -> TrialRecord:
        record = _parse(digest, is_foreign, content)
        if record is None:
            raise self._damaged("a row does not match its digest")
        return record

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that holds the write lock from its start, so that two writers wait for each other."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """One process-wide user of the connection at a time, and SQLite's errors in kopt's words."""
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                if "malformed" in str(error):
                    raise self._damaged(str(error)) from None
                raise FileError(
                    f"cannot use the tuning database: {error}",
                    where=str(self.path),
                    next_step="check the folder, its space and who uses it",
                ) from None
            except sqlite3.DatabaseError as error:
                raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> FileError:
        return FileError(
            f"the tuning database is damaged: {why}",
            where=str(self.path),
            next_step=f"`kopt db repair --db {self.path}` saves what can be read",
        )


def _row(record: TrialRecord) -> tuple[object, ...]:
    content = canonical(record.to_json())
    return (
        record.digest,
        record.workload.digest,
        record.surroundings.key,
        record.implementation,
        record.config_key,
        record.kind,
        record.p50_us,
        record.created,
        record.run,
        int(record.foreign),
        content,
    )


def _parse(digest: object, is_foreign: object, content: object) -> TrialRecord | None:
    """The record of a row, None where the row is damaged."""
    try:
        record = TrialRecord.from_json(json.loads(str(content)), foreign=bool(is_foreign))
    except (UsageError, ValueError):
        return None
    return record if record.digest == digest else None


def _as_foreign(records: Iterable[TrialRecord]) -> Iterator[TrialRecord]:
    for record in records:
        yield TrialRecord.from_json(record.to_json(), foreign=True)


def export_lines(database: TrialDatabase) -> Iterator[str]:
    """Every record as one line of JSON, oldest first."""
    for record in database.records():
        yield canonical(record.to_json())


def import_lines(database: TrialDatabase, lines: Iterable[str], where: str = "") -> int:
    """Take records of an export as foreign ones, all or none; how many were new.

    Raises:
        UsageError: a line is no record; the message names it.
    """
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                records.append(TrialRecord.from_json(json.loads(line), foreign=True))
            except (UsageError, ValueError) as error:
                what = error.what if isinstance(error, UsageError) else f"not JSON: {error}"
                raise UsageError(
                    f"line {number}: {what}", where=where, next_step="nothing was imported; correct or remove the line"
                ) from None
    return database.add_all(records)


def repair(path: Path) -> tuple[int, int, Path]:
    """Move a damaged database aside and make a new one of the rows that can be read.

    Returns:
        How many rows were saved, how many were lost (as far as they can be counted), and where the damaged file is now.

    Raises:
        FileError: there is no file, or it cannot be moved.
    """
    if not path.is_file():
        raise FileError("there is no tuning database", where=str(path), next_step="`kopt tune MODEL` makes one")
    saved, lost = _readable(path)
    aside = next(one for k in range(1, 10_000) if not (one := path.with_name(f"{path.name}.damaged-{k}")).exists())
    try:
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise FileError(f"cannot move the damaged database: {error.strerror}", where=str(path)) from None
    with TrialDatabase(path) as database:
        database.add_all(saved)
    return len(saved), lost, aside


def _readable(path: Path) -> tuple[list[TrialRecord], int]:
    """Row by row, so that one bad page does not hide the others."""
    saved: list[TrialRecord] = []
    lost = 0
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    try:
        (last,) = connection.execute("SELECT max(rowid) FROM trials").fetchone()
        for rowid in range(1, (last or 0) + 1):
            try:
                row = connection.execute("SELECT digest, is_foreign, content FROM trials WHERE rowid = ?", (rowid,)).fetchone()
            except sqlite3.DatabaseError:
                lost += 1
                continue
            if row is not None:
                record = _parse(*row)
                lost += record is None
                saved += [record] if record is not None else []
    except sqlite3.DatabaseError:
        pass  # not even the list of tables can be read
    finally:
        connection.close()
    return saved, lost
