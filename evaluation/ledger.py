"""The episode ledger: an SQLite file that a killed evaluation resumes from.

A row is written when its episode is finished and is on disk before the next one is asked for (WAL, full
synchronisation), so a resumed run repeats at most the episodes that were in flight.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import TracebackType

from evaluation.episodes import EpisodeKey, EpisodeResult, from_row, in_order, to_row

_SCHEMA = """
create table if not exists episodes (
    run text, task_id int, init_state int, seed int, mode text, outcome text not null, record text not null,
    timing text not null, primary key (run, task_id, init_state, seed, mode)) without rowid;
create table if not exists attempts (
    run text, task_id int, init_state int, seed int, mode text, number int, reason text not null,
    primary key (run, task_id, init_state, seed, mode, number)) without rowid;
"""
_SAME_KEY = "run = ? and task_id = ? and init_state = ? and seed = ? and mode = ?"


class Ledger:
    """Results of one run, a digest of adapter, protocol and environment fingerprint. Rows of other runs are hidden."""

    def __init__(self, path: Path, run: str) -> None:
        self.run = run
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def record(self, result: EpisodeResult) -> None:
        """Store a finished episode. Raises sqlite3.IntegrityError if it is already there."""
        values = (*self._where(result.key), result.outcome.value)
        record, timing = json.dumps(to_row(result), ensure_ascii=False), json.dumps(dict(result.timing))
        self._db.execute("insert into episodes values (?, ?, ?, ?, ?, ?, ?, ?)", (*values, record, timing))

    def record_attempt(self, key: EpisodeKey, reason: str) -> int:
        """Store that the simulator broke during an attempt. Returns how many attempts have failed so far."""
        number = len(self.failed_attempts(key)) + 1
        self._db.execute("insert into attempts values (?, ?, ?, ?, ?, ?, ?)", (*self._where(key), number, reason))
        return number

    def failed_attempts(self, key: EpisodeKey) -> list[str]:
        """Why earlier attempts at an unfinished episode broke, in order."""
        query = f"select reason from attempts where {_SAME_KEY} order by number"
        return [row[0] for row in self._db.execute(query, self._where(key))]

    def results(self) -> list[EpisodeResult]:
        """All finished episodes of this run, sorted by key."""
        rows = self._db.execute("select record, timing from episodes where run = ?", (self.run,))
        return in_order(from_row(json.loads(record), json.loads(timing)) for record, timing in rows)

    def done(self) -> set[EpisodeKey]:
        """Keys of the finished episodes, errors included."""
        return {result.key for result in self.results()}

    def _where(self, key: EpisodeKey) -> tuple[str, int, int, int, str]:
        return (self.run, key.task_id, key.init_state, key.seed, key.mode)
