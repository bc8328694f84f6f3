"""The ledger keeps what it was given, and a file that is no ledger is set aside, never a traceback."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.contract import EnvironmentProblem, StageContext
from evaluation.episodes import EpisodeKey, EpisodeResult, Outcome, Protocol, Trace
from evaluation.identity import Identity
from evaluation.ledger import Finished, Ledger
from evaluation.libero_eval import Subject, evaluate
from evaluation.simulators import SimulatorPool
from tests.evaluation.fakes import FACTORY, FakePolicy
from tests.evaluation.test_rollout import ENV, make_slice, published, run

PROTOCOL = Protocol("standard", 10, 220, 4, True, 4, 280)
IDENTITY = Identity("object", "adapter", "base", PROTOCOL, {"look": "light"})
RNG = np.random.default_rng(0)


def finished(number: int, outcome: Outcome = Outcome.SUCCESS) -> Finished:
    key = EpisodeKey(number % 3, number // 3, 0, "think")
    timing = {"wall_s": 1.5, "latency_s": [0.25, 0.5]}
    result = EpisodeResult(key, "task", "words", outcome, 30, fingerprint=IDENTITY.fingerprint, timing=timing)
    actions = RNG.standard_normal((30, 7)).astype(np.float32)
    return Finished(result, Trace(actions, ((0, "TASK: 右"), (4, "MOVE: left"))))


def fill(path: Path, count: int = 40) -> list[Finished]:
    episodes = [finished(number) for number in range(count)]
    with Ledger(path, IDENTITY) as ledger:
        for episode in episodes:
            ledger.record(episode.result, episode.trace)
    return sorted(episodes, key=lambda e: e.result.key)


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    written = fill(tmp_path / "l", 5)
    with Ledger(tmp_path / "l", IDENTITY) as ledger:
        read = list(ledger.finished())
        assert ledger.done() == {e.result.key for e in written}
    assert [e.result for e in read] == [e.result for e in written]
    for mine, theirs in zip(written, read, strict=True):
        assert mine.trace.actions.dtype == theirs.trace.actions.dtype
        np.testing.assert_array_equal(mine.trace.actions, theirs.trace.actions)
        assert mine.trace.thoughts == theirs.trace.thoughts


def test_every_row_says_whose_it_is(tmp_path: Path) -> None:
    fill(tmp_path / "l", 1)
    with closing(sqlite3.connect(tmp_path / "l")) as db:
        row = db.execute("select record from episodes").fetchone()[0]
    for name in ("run", "protocol", "fingerprint", "adapter", "base", "subset"):
        assert f'"{name}": "{IDENTITY.columns[name]}"' in row


@pytest.mark.parametrize(
    "other",
    [
        Identity("object", "another", "base", PROTOCOL, {"look": "light"}),
        Identity("object", "adapter", "another", PROTOCOL, {"look": "light"}),
        Identity("object", "adapter", "base", Protocol("standard", 0, 220, 4, True, 4, 280), {"look": "light"}),
        Identity("object", "adapter", "base", PROTOCOL, {"look": "light", "perturbation": "camera:2"}),
        Identity("object", "adapter", "base", PROTOCOL, {"look": "light"}, "cuda bfloat16"),
    ],
)
def test_rows_of_another_run_are_not_seen(tmp_path: Path, other: Identity) -> None:
    fill(tmp_path / "l", 2)
    with Ledger(tmp_path / "l", other) as ledger:
        assert ledger.done() == set()
        assert ledger.results() == []


def test_adopting_leaves_errors_out_and_is_all_or_nothing(tmp_path: Path) -> None:
    good, bad = finished(0), finished(1, Outcome.ERROR)
    with Ledger(tmp_path / "l", IDENTITY) as ledger, pytest.raises(sqlite3.IntegrityError):
        ledger.adopt([good, good])
    with Ledger(tmp_path / "l", IDENTITY) as ledger:
        assert ledger.done() == set()
        ledger.adopt([good, bad])
        assert ledger.done() == {good.result.key}


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _overwrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 : 4096 * 4] = os.urandom(4096 * 3)
    path.write_bytes(data)


def _foreign(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 this is some other file" * 300)


def _older(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table episodes (run text, record text)")
        db.commit()


@pytest.mark.parametrize("harm", [_truncate, _overwrite, _foreign, _older])
def test_what_is_no_whole_ledger_is_set_aside(tmp_path: Path, harm) -> None:
    path = tmp_path / "ledger.sqlite"
    fill(path)
    harm(path)
    harmed = path.read_bytes()
    with Ledger(path, IDENTITY) as ledger:
        assert ledger.set_aside == tmp_path / "ledger.sqlite.damaged0"
        assert ledger.set_aside.read_bytes() == harmed
        assert ledger.done() == set()
        episode = finished(1)
        ledger.record(episode.result, episode.trace)
    with Ledger(path, IDENTITY) as ledger:
        assert ledger.set_aside is None
        assert len(ledger.done()) == 1


def test_a_torn_journal_costs_the_last_rows_only(tmp_path: Path) -> None:
    """A power cut: the write-ahead log ends in the middle of a frame."""
    path, copy = tmp_path / "l", tmp_path / "copy"
    copy.mkdir()
    with Ledger(path, IDENTITY) as ledger:
        for number in range(6):
            episode = finished(number)
            ledger.record(episode.result, episode.trace)
        for suffix in ("", "-wal"):
            (copy / f"l{suffix}").write_bytes((tmp_path / f"l{suffix}").read_bytes())
    os.truncate(copy / "l-wal", (copy / "l-wal").stat().st_size - 1000)
    with Ledger(copy / "l", IDENTITY) as ledger:
        assert ledger.set_aside is None
        assert len(ledger.done()) == 5


def test_an_evaluation_goes_on_after_its_ledger_was_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "whole")
    work = tmp_path / "w"
    work.mkdir()
    (work / "ledger.sqlite").write_bytes(b"not a database" * 1000)
    context = StageContext(work, {})
    with SimulatorPool(2, ENV, FACTORY) as pool:
        evaluate(make_slice(), context, Subject(FakePolicy(), "a" * 64, {"phase": "any"}), pool)
    assert published(work) == published(tmp_path / "whole")
    assert "set aside as ledger.sqlite.damaged0" in capsys.readouterr().out
    assert "ledger" in context.remarks


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*not_there/ledger"):
        Ledger(tmp_path / "not_there/ledger", IDENTITY)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l", IDENTITY) as ledger:
        ledger._db.execute("pragma max_page_count = 1")  # it never shrinks below what is there
        with pytest.raises(EnvironmentProblem, match="free some space"):
            ledger.record(finished(0).result, Trace(np.zeros((9000, 7), np.float32)))
