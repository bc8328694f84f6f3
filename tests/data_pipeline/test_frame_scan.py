"""Repeated and blank frames are found among all frames, though few are read, however the file stores them."""

import h5py
import numpy as np
import pytest

from configs.checks import ConfigError
from data_pipeline.contract import AGENTVIEW, WRIST
from data_pipeline.frame_scan import read_steps, scan_frames
from data_pipeline.hdf5_layout import IMAGE_COMPRESSION

STORAGE = {
    "ours": {"chunks": (1, 32, 32, 3), **IMAGE_COMPRESSION},
    "one block": {},
    "chunks of several frames": {"chunks": (4, 32, 32, 3), **IMAGE_COMPRESSION},
    "uncompressed frames": {"chunks": (1, 32, 32, 3)},
}


def planted():
    """12 frames of noise: 3 and 4 repeat 2, 7 differs from 6 by one pixel of the first row, 9 is red, 10 black."""
    frames = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    frames[3] = frames[4] = frames[2]
    frames[7] = frames[6]
    frames[7, 0, 0] ^= 255
    frames[9] = (200, 10, 10)
    frames[10] = 0
    return frames


def store(path, frames, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("data/demo_4/obs/agentview_rgb", data=frames, **options)
    return path


@pytest.mark.parametrize("storage", STORAGE)
def test_finds_exactly_what_was_planted(tmp_path, storage):
    scan = scan_frames(store(tmp_path / "a.hdf5", planted(), **STORAGE[storage]), 4, AGENTVIEW)
    assert scan.repeated == (3, 4)
    assert scan.flat == (9, 10)
    assert scan.size == (32, 32)


@pytest.mark.parametrize("storage", STORAGE)
def test_few_distinct_frames_equal_a_comparison_of_all(tmp_path, storage):
    """Frames that differ outside the rows looked at first, and frames of equal compressed size."""
    rng = np.random.default_rng(1)
    frames = np.zeros((60, 32, 32, 3), np.uint8)
    frames[:, 2, 5] = rng.integers(0, 2, (60, 1)) * 255
    frames[:, 20, 3] = rng.integers(0, 2, (60, 1)) * 255
    scan = scan_frames(store(tmp_path / "a.hdf5", frames, **STORAGE[storage]), 4, AGENTVIEW)
    assert scan.repeated == tuple(t for t in range(1, 60) if np.array_equal(frames[t], frames[t - 1]))
    assert scan.flat == tuple(t for t in range(60) if (frames[t] == frames[t, 0, 0]).all())
    assert scan.repeated
    assert scan.flat


def test_reads_the_steps_asked_for(tmp_path):
    path = store(tmp_path / "a.hdf5", planted(), **STORAGE["ours"])
    np.testing.assert_array_equal(read_steps(path, 4, AGENTVIEW, (11, 0, 0)), planted()[[11, 0, 0]])


def test_missing_camera_is_named(tmp_path):
    path = store(tmp_path / "a.hdf5", planted())
    with pytest.raises(ConfigError, match=r"a\.hdf5: /data/demo_4/obs/eye_in_hand_rgb is missing"):
        scan_frames(path, 4, WRIST)
