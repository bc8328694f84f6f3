"""Normalisation and its inverse, the gripper's two conventions, and the statistics file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from configs.checks import ConfigError
from configs.choices import Normalization, Subset
from data_pipeline.action_stats import ActionStatistics, floored_bounds, gripper_to_env, gripper_to_nora
from data_pipeline.data_splitter import load_split
from data_pipeline.raw_loader import Hdf5Source
from tests.helpers.synthetic import smooth_actions, write_split_and_stats, write_synthetic_subset


def made(actions: np.ndarray, floor: float = 0.0, mode: Normalization = Normalization.BOUNDS_Q99) -> ActionStatistics:
    return ActionStatistics.of("libero_object", [actions], [np.zeros((len(actions), 8))], floor, mode)


RECORDED = smooth_actions(np.random.default_rng(0), 200)
STATISTICS = made(RECORDED)
ALL_MODES = {mode: made(RECORDED, mode=mode) for mode in Normalization}
any_mode = pytest.mark.parametrize("mode", Normalization)
poses = st_numpy.arrays(np.float64, (5, 6), elements=st.floats(-1, 1))
unit_actions = st_numpy.arrays(np.float32, (5, 7), elements=st.floats(-1, 1, width=32))


@any_mode
@given(unit=unit_actions)
def test_unnormalise_inverts_normalise_inside_the_bounds(mode, unit) -> None:
    statistics = ALL_MODES[mode]
    pose = statistics.centre + unit * statistics.unit
    actions = np.concatenate([pose[:, :6], np.sign(unit[:, 6:]) + (unit[:, 6:] == 0)], axis=1)
    normal = statistics.normalize(actions)
    np.testing.assert_allclose(statistics.unnormalize(normal), actions, atol=1e-6)
    np.testing.assert_allclose(normal[:, :6], unit[:, :6], atol=1e-6)


@given(poses, st.booleans())
def test_normal_clips_nothing_and_is_inverted_everywhere(pose, closed) -> None:
    statistics = ALL_MODES[Normalization.NORMAL]
    actions = np.concatenate([pose, np.full((5, 1), 1.0 if closed else -1.0)], axis=1)
    normal = statistics.normalize(actions)
    assert np.abs(normal[:, :6]).max() <= statistics.largest * (1 + 1e-6)
    np.testing.assert_allclose(statistics.unnormalize(normal), actions, atol=1e-5)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_bounds_clip_no_recorded_action_and_the_quantiles_do(sign) -> None:
    """With `bounds` every recorded action comes back; with `bounds_q99` one in fifty per dimension is cut."""
    for mode, exact in ((Normalization.BOUNDS, True), (Normalization.BOUNDS_Q99, False)):
        back = ALL_MODES[mode].unnormalize(ALL_MODES[mode].normalize(RECORDED))
        assert np.allclose(back, RECORDED, atol=1e-6) is exact
        far = np.concatenate([np.full(6, 9 * sign), [sign]])
        edge = ALL_MODES[mode].centre + sign * ALL_MODES[mode].unit
        np.testing.assert_allclose(ALL_MODES[mode].unnormalize(ALL_MODES[mode].normalize(far))[:6], edge[:6], rtol=1e-6)


@any_mode
@given(grip=st.floats(-1, 1))
def test_the_mask_keeps_the_gripper_out_of_every_mode(mode, grip) -> None:
    action = np.array([0.1] * 6 + [grip])
    assert ALL_MODES[mode].normalize(action)[6] == np.float32(gripper_to_nora(np.array(grip)))
    assert ALL_MODES[mode].unnormalize(np.array([0.1] * 6 + [(1 - grip) / 2]))[6] in (-1, 1)


@any_mode
def test_columns_of_each_mode_are_those_of_the_record(mode) -> None:
    action = ALL_MODES[mode].record["action"]
    first, second = (
        np.array(action[key])
        for key in {
            Normalization.NORMAL: ("mean", "std"),
            Normalization.BOUNDS: ("min", "max"),
            Normalization.BOUNDS_Q99: ("q01", "q99"),
        }[mode]
    )
    normal = ALL_MODES[mode].normalize(np.stack([first, second]))[:, :6]
    expected = (second - first) / second if mode is Normalization.NORMAL else np.ones(7)
    np.testing.assert_allclose(normal[0], np.zeros(6) if mode is Normalization.NORMAL else -np.ones(6), atol=1e-6)
    np.testing.assert_allclose(normal[1], expected[:6], atol=1e-6)


@given(unit_actions)
def test_normalise_inverts_unnormalise(unit) -> None:
    again = STATISTICS.normalize(STATISTICS.unnormalize(unit))
    np.testing.assert_allclose(again[:, :6], unit[:, :6], atol=1e-5)
    np.testing.assert_array_equal(again[:, 6], unit[:, 6] >= 0.5)


@given(st_numpy.arrays(np.float64, (5, 7), elements=st.floats(-1, 1)))
def test_normalised_actions_stay_in_range(actions) -> None:
    normal = STATISTICS.normalize(actions)
    assert normal.dtype == np.float32
    assert np.abs(normal[:, :6]).max() <= 1
    assert ((normal[:, 6] >= 0) & (normal[:, 6] <= 1)).all()


def test_gripper_conventions() -> None:
    assert gripper_to_nora(np.array([-1.0, 1.0])).tolist() == [1.0, 0.0]
    assert gripper_to_env(np.array([1.0, 0.0, 0.51, 0.49, 0.5])).tolist() == [-1, 1, -1, 1, -1]


def test_a_chunk_smoothed_at_a_transition_keeps_its_close_steps() -> None:
    """A compressed step from open to close decides at one half; a threshold at 0 would hold the hand open."""
    nora = np.array([1.02, 0.95, 0.6, 0.4, 0.2, 0.05, -0.03])
    assert gripper_to_env(nora).tolist() == [-1, -1, -1, 1, 1, 1, 1]


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0.01, 1))
def test_floor_widens_about_the_centre_and_never_narrows(centre, half, floor) -> None:
    low, high = floored_bounds(np.array([centre - half]), np.array([centre + half]), floor)
    assert (high + low) / 2 == pytest.approx(centre, abs=1e-9)
    assert (high - low) / 2 == pytest.approx(max(half, floor))


@any_mode
def test_floor_keeps_tiny_rotations_tiny(mode) -> None:
    actions = smooth_actions(np.random.default_rng(1), 100)
    actions[:, 3] *= 0.01
    assert np.abs(made(actions, mode=mode).normalize(actions)[:, 3]).max() >= 1
    assert np.abs(made(actions, 0.3, mode).normalize(actions)[:, 3]).max() < 0.05


def test_a_dimension_that_does_not_move_is_named() -> None:
    actions = smooth_actions(np.random.default_rng(1), 100)
    actions[:, 4] = 0.25
    with pytest.raises(ConfigError, match=r"action dimension ry hardly moves.*action.half_range_floor"):
        made(actions)
    made(actions, 0.3)


def test_no_training_demonstrations() -> None:
    with pytest.raises(ConfigError, match="no training demonstrations"):
        ActionStatistics.of("libero_object", [], [])


def test_file_round_trip_and_format(tmp_path: Path) -> None:
    path = tmp_path / "dataset_statistics.json"
    actions = smooth_actions(np.random.default_rng(2), 20)
    for mode, statistics in ALL_MODES.items():  # the last is the default
        statistics.save(path)
        loaded = ActionStatistics.load(path)
        assert loaded.mode is mode
        np.testing.assert_array_equal(loaded.normalize(actions), statistics.normalize(actions))
        loaded.save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    entry = json.loads(path.read_text())["libero_object"]
    assert set(entry["action"]) == {"mean", "std", "min", "max", "q01", "q99", "mask"}
    assert entry["action"]["mask"] == [True] * 6 + [False]
    assert (entry["action"]["min"][6], entry["action"]["max"][6]) == (0, 1)
    assert (entry["num_transitions"], entry["num_trajectories"]) == (200, 1)
    assert len(entry["proprio"]["q99"]) == 8
    with pytest.raises(ConfigError, match="no statistics of 'bridge'; it has libero_object"):
        ActionStatistics.load(path, "bridge")


def test_stage_reads_training_demonstrations_only(tmp_path: Path) -> None:
    folder = write_synthetic_subset(tmp_path / "demos", Subset.SPATIAL, demos=4, steps=20, size=4)
    split_path, path = write_split_and_stats(folder, tmp_path, Subset.SPATIAL, half_range_floor=0.0)
    train = load_split(split_path).train
    source = Hdf5Source(folder, Subset.SPATIAL)
    actions = np.concatenate([source.open(e).actions for e in train])
    entry = json.loads(path.read_text())["libero_spatial"]
    assert (entry["num_trajectories"], entry["num_transitions"]) == (6, 120)
    np.testing.assert_allclose(entry["action"]["q01"][:6], np.quantile(actions[:, :6], 0.01, axis=0), rtol=1e-6)
    np.testing.assert_allclose(entry["action"]["mean"][6], 0.5, atol=1e-9)


def test_a_published_file_names_no_mode_and_is_read_as_its_writers_do(tmp_path: Path) -> None:
    """The layout that OpenVLA's save_dataset_statistics writes: no `normalization`, other orders of keys."""
    columns = {key: [0.1] * 7 for key in ("mean", "std")} | {"max": [1.0] * 7, "min": [-1.0] * 7}
    action = {**columns, "q01": [-0.5] * 6 + [0.0], "q99": [0.5] * 6 + [1.0], "mask": [True] * 6 + [False]}
    entry = {"action": action, "proprio": {}, "num_transitions": 9, "num_trajectories": 1}
    path = tmp_path / "dataset_statistics.json"
    path.write_text(json.dumps({"libero_object_no_noops": entry}))
    assert ActionStatistics.load(path).normalize(np.array([0.25] * 6 + [-1.0])).tolist() == [0.5] * 6 + [1.0]
    path.write_text(json.dumps({"libero_object_no_noops": entry | {"normalization": "q99"}}))
    with pytest.raises(ConfigError, match="normalization='q99'; allowed: normal, bounds, bounds_q99"):
        ActionStatistics.load(path)
