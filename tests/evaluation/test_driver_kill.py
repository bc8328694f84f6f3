"""SIGKILL of the driver at any point: what resumes ends with the uninterrupted records, and no process is left."""

from __future__ import annotations

import os
import random
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.choices import Look, Mode, Subset
from configs.data import EnvConfig
from data_pipeline.contract import StageContext
from data_pipeline.libero_utils import MAX_STEPS
from evaluation import film
from evaluation.episodes import EpisodeKey
from evaluation.identity import identity_of
from evaluation.libero_eval import Subject, evaluate
from evaluation.policy_api import Decision, Observation
from evaluation.records import read_finished, read_summary
from evaluation.simulators import SimulatorPool
from tests.evaluation.fakes import FakePolicy
from tests.evaluation.test_rollout import gone, make_slice, published, run

REAL = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64)
Attempt = Callable[[Path], None]


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(parent, []).append(int(stat.parent.name))

    def below(one: int) -> Iterator[int]:
        for child in parents.get(one, []):
            yield child
            yield from below(child)

    return list(below(pid))


def start(attempt: Attempt, work: Path) -> int:
    """The attempt in a process of its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt(work)
            code = 0
        finally:
            os._exit(code)
    return child


def killed_after(child: int, seconds: float) -> bool:
    """Kill it at that time. False where it had done its work by then. Nothing that it started outlives it by 5 s."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return False
        time.sleep(0.002)
    started = descendants(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert gone(started, within_s=5.0)
    return True


def sweep(folder: Path, attempt: Attempt, kills: int) -> None:
    """Kill at so many random points, and compare whenever an evaluation comes to its end."""
    began = time.monotonic()
    assert os.waitpid(start(attempt, folder / "whole"), 0)[1] == 0
    duration_s, whole = time.monotonic() - began, published(folder / "whole")
    points, ended, left = random.Random(20), 0, kills
    while True:
        work = folder / f"w{ended}"
        point_s = points.uniform(0, duration_s) if left else 600
        if killed_after(start(attempt, work), point_s):
            left -= 1
            continue
        assert published(work) == whole
        ended += 1
        if not left:
            return


def attempt_fake(work: Path) -> None:
    run(work, num_trials=2, videos=1, policy=FakePolicy(blind_to=("do task 3",)))


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_of_the_driver_change_nothing(tmp_path: Path, kills: int) -> None:
    sweep(tmp_path, attempt_fake, kills)


class FromThePicture:
    """Actions drawn from what it sees: a pixel that differed after a resume would change the record."""

    def act(self, observations: Sequence[Observation]) -> list[Decision]:
        return [self._decide(o) for o in observations]

    def _decide(self, observation: Observation) -> Decision:
        rng = np.random.default_rng([zlib.crc32(observation.image.tobytes()), observation.step])
        actions = rng.uniform(-1, 1, (4, 7)).astype(np.float32)
        return Decision(actions, text=f"MOVE: {actions[0, 0]:+.2f}" if observation.think else "")


def attempt_real(work: Path) -> None:
    work.mkdir(exist_ok=True)
    subject = Subject(FromThePicture(), "a" * 64, {"phase": "any"})
    config = replace(make_slice(num_trials=2, videos=1), env=REAL, tasks=(0,))
    with SimulatorPool(1, REAL, slots=2) as pool:
        evaluate(config, StageContext(work, {}), subject, pool)


def check_replays_show_the_same_pictures(work: Path) -> None:
    """Actions drawn from the pictures of a replay are the recorded ones: the same states, bit for bit."""
    episodes = {e.result.key: e for e in read_finished(work)}
    shown: dict[EpisodeKey, film.Frames] = {}
    with SimulatorPool(1, REAL) as pool:
        identity = identity_of(read_summary(work))
        film.replay(list(episodes.values()), identity, pool, lambda e, r, frames: shown.update({r.key: frames}))
    for key, frames in shown.items():
        asked = [Observation(image, "", think=False, step=4 * number) for number, (image, _) in enumerate(frames)]
        drawn = np.concatenate([decision.actions for decision in FromThePicture().act(asked)])
        np.testing.assert_array_equal(drawn, episodes[key].trace.actions)


@pytest.mark.sim
@pytest.mark.slow
def test_three_kills_with_the_simulator_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAX_STEPS, Subset.SPATIAL, 40)
    sweep(tmp_path, attempt_real, kills=3)
    check_replays_show_the_same_pictures(tmp_path / "whole")
    assert {path.name.split("_task")[0] for path in (tmp_path / "whole/videos").iterdir()} == {
        Mode.NO_THINK.value,
        Mode.THINK.value,
    }
