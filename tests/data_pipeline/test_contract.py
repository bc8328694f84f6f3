"""Identifiers, laziness and the stop signal of the shared types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.choices import Subset
from data_pipeline.contract import Episode, EpisodeId, Interrupted, StageContext

episode_ids = st.builds(EpisodeId, st.sampled_from(Subset), st.integers(0, 99), st.integers(0, 2000))


@given(episode_ids)
def test_episode_id_round_trip(episode) -> None:
    assert EpisodeId.parse(str(episode)) == episode


@given(st.lists(episode_ids.filter(lambda e: e.demo < 1000), min_size=2, max_size=9))
def test_episode_ids_of_one_subset_sort_as_their_text(ids) -> None:
    same = [EpisodeId(Subset.GOAL, e.task_id, e.demo) for e in ids]
    assert [str(e) for e in sorted(same)] == sorted(map(str, same))


@pytest.mark.parametrize("text", ["", "object/03", "object/03/017/1", "object/x/1", "kitchen/00/000", "Object/03/017"])
def test_other_texts_are_no_episode_ids(text: str) -> None:
    with pytest.raises(ValueError, match=r"episode id|not a valid Subset"):
        EpisodeId.parse(text)


def test_example_of_the_documentation() -> None:
    assert str(EpisodeId(Subset.OBJECT, 3, 17)) == "object/03/017"


def test_frames_are_read_when_asked_for() -> None:
    asked: list[str] = []

    def read(camera: str) -> np.ndarray:
        asked.append(camera)
        return np.zeros((2, 4, 4, 3), np.uint8)

    actions, proprio = np.zeros((2, 7), np.float32), np.zeros((2, 8), np.float32)
    episode = Episode(EpisodeId(Subset.OBJECT, 0, 0), "t", "i", actions, proprio, None, {}, {}, True, read)
    assert (episode.num_steps, asked) == (2, [])
    episode.frames("agentview")
    assert asked == ["agentview"]


def test_checkpoint_stops_only_when_asked(tmp_path: Path) -> None:
    StageContext(tmp_path, {}).checkpoint()
    with pytest.raises(Interrupted):
        StageContext(tmp_path, {}, stop_requested=lambda: True).checkpoint()


def test_contract_stays_light() -> None:
    """Imported by everything, the help text included: no torch, no h5py, no simulator."""
    heavy = ["torch", "transformers", "h5py", "mujoco", "robosuite", "scipy", "hydra"]
    code = f"import sys, data_pipeline.contract, configs.schema; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
