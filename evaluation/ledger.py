"""The episode ledger: an SQLite file that a killed evaluation resumes from.

A row is written when its episode is finished and is on disk before the next one is asked for (WAL, full
synchronisation), so a resumed run repeats at most the episodes that were in flight. Beside the row lies what was done
and thought, so that the episode can be shown again.
"""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from data_pipeline.contract import EnvironmentProblem
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome, Trace, from_row, to_row
from evaluation.identity import Identity

VERSION = 3  # of the tables
IN_MEMORY = Path(":memory:")
"""For a ledger that nobody resumes from."""

_SCHEMA = f"""
begin;
create table episodes (
    run text, task_id int, init_state int, seed int, mode text, outcome text not null, record text not null,
    timing text not null, actions blob not null, thoughts text not null,
    primary key (run, task_id, init_state, seed, mode)) without rowid;
create table attempts (
    run text, task_id int, init_state int, seed int, mode text, number int, reason text not null,
    primary key (run, task_id, init_state, seed, mode, number)) without rowid;
pragma user_version = {VERSION};
commit;
"""
_SAME_KEY = "run = ? and task_id = ? and init_state = ? and seed = ? and mode = ?"
_UNREADABLE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}


@dataclass(frozen=True)
class Finished:
    """An episode's row and what lies beside it."""

    result: EpisodeResult
    trace: Trace


class Ledger:
    """Episodes of one run. Rows of other runs are hidden.

    A file that is damaged, or no ledger of this version, is set aside (`set_aside` says where to) and its episodes run
    again. Raises EnvironmentProblem where the file cannot be written.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.identity = identity
        self.set_aside: Path | None = None
        self._path = path
        db = _opened(path)
        if db is None:
            self.set_aside = _move_away(path)
            db = _opened(path)
            assert db is not None, "a new file is no damaged one"
        self._db = db

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def record(self, result: EpisodeResult, trace: Trace) -> None:
        """Store a finished episode. Raises sqlite3.IntegrityError if it is already there."""
        row = json.dumps(self.identity.columns | to_row(result), ensure_ascii=False)
        timing, thoughts = json.dumps(dict(result.timing)), json.dumps(trace.thoughts, ensure_ascii=False)
        values = (*self._where(result.key), result.outcome.value, row, timing, _to_bytes(trace.actions), thoughts)
        self._write(f"insert into episodes values ({', '.join('?' * len(values))})", values)

    def adopt(self, episodes: Iterable[Finished]) -> None:
        """Store episodes of an earlier attempt at the same run, all or none; error rows are left out."""
        self._write("begin")
        for episode in episodes:
            if episode.result.outcome is not Outcome.ERROR:
                self.record(episode.result, episode.trace)
        self._write("commit")

    def record_attempt(self, key: EpisodeKey, reason: str) -> int:
        """Store that the simulator broke during an attempt. Returns how many attempts have failed so far."""
        number = len(self.failed_attempts(key)) + 1
        self._write("insert into attempts values (?, ?, ?, ?, ?, ?, ?)", (*self._where(key), number, reason))
        return number

    def failed_attempts(self, key: EpisodeKey) -> list[str]:
        """Why earlier attempts at an unfinished episode broke, in order."""
        query = f"select reason from attempts where {_SAME_KEY} order by number"
        return [row[0] for row in self._db.execute(query, self._where(key))]

    def finished(self) -> Generator[Finished]:
        """All finished episodes of this run, sorted by key."""
        query = (
            "select record, timing, actions, thoughts from episodes where run = ? "
            "order by task_id, init_state, seed, mode"
        )
        for record, timing, actions, thoughts in self._db.execute(query, (self.identity.run,)):
            texts = tuple((step, text) for step, text in json.loads(thoughts))
            result = from_row(json.loads(record), json.loads(timing))
            yield Finished(result, Trace(_from_bytes(actions), texts))

    def results(self) -> list[EpisodeResult]:
        """The rows alone, sorted by key."""
        return [episode.result for episode in self.finished()]

    def done(self) -> set[EpisodeKey]:
        """Keys of the finished episodes, errors included."""
        query = "select task_id, init_state, seed, mode from episodes where run = ?"
        return {EpisodeKey(*row) for row in self._db.execute(query, (self.identity.run,))}

    def _where(self, key: EpisodeKey) -> tuple[str, int, int, int, str]:
        return (self.identity.run, key.task_id, key.init_state, key.seed, key.mode)

    def _write(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        with _disk_problems(self._path):
            self._db.execute(statement, values)


def _opened(path: Path) -> sqlite3.Connection | None:
    """A connection to a whole ledger of this version; None where the file is something else."""
    with _disk_problems(path):
        db = sqlite3.connect(path, timeout=30, isolation_level=None)
        try:
            version = db.execute("pragma user_version").fetchone()[0]
            empty = db.execute("select count(*) from sqlite_master").fetchone()[0] == 0
            if (version == VERSION or empty) and db.execute("pragma quick_check").fetchone()[0] == "ok":
                db.execute("pragma journal_mode = wal")
                db.execute("pragma synchronous = full")
                if empty:
                    db.executescript(_SCHEMA)
                return db
        except sqlite3.DatabaseError as problem:
            if _code(problem) not in _UNREADABLE:
                db.close()
                raise
        db.close()
        return None


def _move_away(path: Path) -> Path:
    """Out of the way, for a person to look at; its journal belongs to it."""
    number = len(list(path.parent.glob(f"{path.name}.damaged*")))
    aside = path.with_name(f"{path.name}.damaged{number}")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


@contextlib.contextmanager
def _disk_problems(path: Path) -> Generator[None]:
    """A full or read-only disk is the machine's fault, and named."""
    try:
        yield
    except sqlite3.OperationalError as problem:
        if _code(problem) not in _NO_ROOM:
            raise
        raise EnvironmentProblem(
            f"cannot write {path}: {problem}; free some space or name another --output_dir, then run the same command "
            "again: finished episodes are kept"
        ) from problem


def _code(problem: sqlite3.DatabaseError) -> int:
    """SQLite's primary result code: the low byte of the extended one."""
    return problem.sqlite_errorcode & 0xFF


def _to_bytes(actions: np.ndarray) -> bytes:
    """NumPy's own file format, which keeps shape and type."""
    buffer = io.BytesIO()
    np.save(buffer, actions, allow_pickle=False)
    return buffer.getvalue()


def _from_bytes(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)
