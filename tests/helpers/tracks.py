"""SceneTracks in a file: what the simulator knew of real demonstrations, so that tests of words need no simulator.

    python -m tests.helpers.tracks OUTPUT.npz DEMONSTRATIONS/libero_<subset>_expert ...

writes every demonstration in these folders.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from configs.choices import Look
from configs.data import EnvConfig
from data_pipeline.contract import EpisodeId
from data_pipeline.scene import Goal, SceneTrack

_UNITS = {  # one step of an int16: 0.1 mm or mrad, 1/100 of a grid cell; flags are kept as they are
    **dict.fromkeys(("position", "grip_position", "grip_rotation", "finger_opening", "target", "joint"), 1e-4),
    **dict.fromkeys(("box", "grip_point"), 1e-2),
    **dict.fromkeys(("visible", "gripper_command"), 1e-3),
    **dict.fromkeys(("grasped", "grip_visible", "holds"), 0.0),
}
_NAN = -(2**15)


def save_tracks(path: Path, tracks: Iterable[SceneTrack]) -> None:
    """Write tracks; numbers in steps of _UNITS, as differences from step to step, which a zip makes small."""
    values: dict[str, Any] = {}
    for track in tracks:
        name = str(track.episode)
        goals = [dataclasses.astuple(goal) for goal in track.goals]
        head = {"file": track.file, "instruction": track.instruction, "goals": goals, "names": track.names}
        values[f"{name}/head"] = np.array(json.dumps(head))
        for field, unit in _UNITS.items():
            array = getattr(track, field)
            values[f"{name}/{field}"] = _steps(array, unit) if unit else array
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for name, array in values.items():
            with file.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array)


def _steps(array: np.ndarray, unit: float) -> np.ndarray:
    whole = np.where(np.isnan(array), _NAN, np.round(np.nan_to_num(array) / unit))
    assert np.abs(whole).max() <= -_NAN, "does not fit into int16"
    return np.diff(whole.astype(np.int16), axis=0, prepend=np.int16(0))  # wraps around, and back


def _array(stored: np.ndarray, unit: float) -> np.ndarray:
    """Inverse of `_steps`."""
    whole = np.cumsum(stored, axis=0, dtype=np.int16)
    return np.where(whole == _NAN, np.nan, whole * unit)


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
        **{f: _array(stored[f"{name}/{f}"], unit) if unit else stored[f"{name}/{f}"] for f, unit in _UNITS.items()},
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
        tracks += [replayer.track(source.open(episode)) for episode in source.list()]
        replayer.close()
        source.close()
    save_tracks(Path(sys.argv[1]), tracks)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
