"""SceneTracks in a file: what the simulator knew of real demonstrations, so that tests of words need no simulator.

    python -m tests.helpers.tracks OUTPUT.npz DEMONSTRATIONS/libero_<subset>_expert ...

writes the first and the last demonstration of every task in these folders.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from configs.choices import Look
from configs.schema import EnvConfig
from data_pipeline.contract import EpisodeId
from data_pipeline.scene import Goal, SceneTrack

_ARRAYS = ("position", "grasped", "box", "visible", "grip_position", "grip_rotation", "grip_point", "grip_visible")
_ARRAYS += ("finger_opening", "gripper_command", "target", "holds", "joint")


def save_tracks(path: Path, tracks: Iterable[SceneTrack]) -> None:
    """Write tracks; floats as float32."""
    values: dict[str, Any] = {}
    for track in tracks:
        name = str(track.episode)
        goals = [dataclasses.astuple(goal) for goal in track.goals]
        head = {"file": track.file, "instruction": track.instruction, "goals": goals, "names": track.names}
        values[f"{name}/head"] = np.array(json.dumps(head))
        for field in _ARRAYS:
            array = getattr(track, field)
            values[f"{name}/{field}"] = array if array.dtype == bool else array.astype(np.float32)
    np.savez_compressed(path, **values)


def load_tracks(path: Path) -> list[SceneTrack]:
    """What `save_tracks` wrote, in order."""
    with np.load(path) as stored:
        names = dict.fromkeys(key.rpartition("/")[0] for key in stored)
        return [_track(stored, name) for name in names]


def _track(stored: Any, name: str) -> SceneTrack:
    head = json.loads(str(stored[f"{name}/head"]))
    return SceneTrack(
        episode=EpisodeId.parse(name),
        file=head["file"],
        instruction=head["instruction"],
        goals=tuple(Goal(*goal) for goal in head["goals"]),
        names=tuple(head["names"]),
        **{field: stored[f"{name}/{field}"] for field in _ARRAYS},
    )


def main() -> int:
    """See above."""
    from data_pipeline.raw_loader import Hdf5Source
    from data_pipeline.sim.features import Replayer
    from experiment.inspecting import subset_of

    tracks: list[SceneTrack] = []
    for folder in map(Path, sys.argv[2:]):
        source = Hdf5Source(folder, subset_of(folder))
        replayer = Replayer(EnvConfig(assets="builtin", look=Look.LIGHT, resolution=128))
        by_task = {
            episode.task_id: [e for e in source.list() if e.task_id == episode.task_id] for episode in source.list()
        }
        tracks += [
            replayer.track(source.open(e)) for some in by_task.values() for e in dict.fromkeys((some[0], some[-1]))
        ]
        replayer.close()
        source.close()
    save_tracks(Path(sys.argv[1]), tracks)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
