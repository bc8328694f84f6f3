"""The oracle passes what is right and names each planted fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.schema import EvalConfig
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import ACTION_DIM, EnvironmentProblem, Episode
from evaluation.episodes import Outcome, Protocol, make_protocol
from evaluation.interface import Interface
from evaluation.oracle import Examination, OraclePolicy, Recording, examine, roll_out
from evaluation.oracle_card import card_faults, length_faults, load_interface
from evaluation.oracle_faults import Fault, Part, differing, frame_fault, gripper_fault, recorded_gripper_fault
from evaluation.oracle_path import ActionPath, action_faults, check_possible, measure, still
from evaluation.simulators import SimulatorPool
from tests.evaluation import oracle_fakes as fakes
from tests.evaluation import oracle_world as world
from tests.helpers.synthetic import smooth_actions
from tests.helpers.tiny_adapter import BASELINE, HORIZON, fitted_actions, write_tiny_adapter
from training import action_tokenizer
from training.action_alphabets import UndecodableAction
from training.action_tokenizer import ACTION_TOKENIZER_FILE
from training.card import load_card, save_card

CHOSEN = [fakes.recording(demo) for demo in range(6)]
GOOD = fakes.interface(CHOSEN)
RNG = np.random.default_rng(0)


def protocol(execute: int) -> Protocol:
    return make_protocol(EvalConfig(), execute, max_steps=fakes.STEPS + 20)


def examined(
    path: ActionPath, factory: str = world.FACTORY, chosen: list[Recording] = CHOSEN, executes: tuple[int, ...] = (8,)
) -> Examination:
    with SimulatorPool(1, world.ENV, factory) as pool:
        return examine(chosen, path, [protocol(e) for e in executes], pool)


def offline(deployed: Interface, *others: ActionStatistics, execute: int = 4) -> list[Fault]:
    path = ActionPath(GOOD, deployed)
    return action_faults(measure([r.episode for r in CHOSEN], path, execute), path, others)


def only(faults: list[Fault] | tuple[Fault, ...]) -> Fault:
    assert len(faults) == 1, faults
    return faults[0]


# ------------------------------------------------------------------ what is right passes


def test_a_right_path_passes_at_every_chunk_length() -> None:
    found = examined(ActionPath(GOOD, GOOD), executes=(4, 8))
    assert found.good
    assert found.faults == ()
    assert [(r.execute, r.horizon, r.demos, r.raw, r.passed, r.rate) for r in found.rows] == [
        (4, 8, 6, 6, 6, 1.0),
        (8, 8, 6, 6, 6, 1.0),
    ]
    for row in found.rows:
        # Rounding of a coefficient is at most half a step of 1/20 of a unit of 0.05 m; most is far below.
        assert 0 < row.fidelity.position_mm < 0.5 / 20 * 50
        assert row.fidelity.gripper_steps == 0
        assert 1 < row.fidelity.tokens < HORIZON * ACTION_DIM


@pytest.mark.parametrize("execute", [1, 3, 4, 8])
def test_every_recorded_step_is_measured_once(execute: int) -> None:
    pairs = measure([r.episode for r in CHOSEN], ActionPath(GOOD, GOOD), execute).pairs
    np.testing.assert_array_equal(pairs.recorded, np.concatenate([r.episode.actions for r in CHOSEN]))


def test_past_the_end_the_hand_stays_and_holds() -> None:
    actions = CHOSEN[0].episode.actions
    chunk, _ = ActionPath(GOOD, GOOD).chunk(actions, len(actions) + 3)
    assert np.abs(chunk[:, :6] - still(actions)[:, :6]).max() < 0.05
    assert set(chunk[:, 6]) == {1.0}


# ------------------------------------------------------------------ planted faults of the actions


def test_gripper_sign_through_the_simulator() -> None:
    found = examined(ActionPath(GOOD, fakes.planted(fakes.InvertedGripper, GOOD)))
    fault = only(found.faults)
    assert fault.part is Part.GRIPPER
    assert "recorded close = +1, deployed -1 in 100% of steps" in fault.says
    assert (found.rows[0].raw, found.rows[0].passed) == (6, 0)
    assert not found.good


def test_gripper_decided_at_the_wrong_value() -> None:
    coarse = replace(GOOD, tokenizer=action_tokenizer.fit([np.zeros((8, 7))], 8, 2.0, 64))
    first = CHOSEN[0].episode
    episodes = [replace(first, actions=first.actions[offset:]) for offset in range(8)]  # closing anywhere in a chunk
    assert gripper_fault(measure(episodes, ActionPath(coarse, coarse), 8).pairs) is None
    fault = gripper_fault(measure(episodes, ActionPath(coarse, fakes.planted(fakes.LowThreshold, coarse)), 8).pairs)
    assert fault is not None
    assert fault.part is Part.GRIPPER
    assert "100% of these steps are deployed open): is it decided at 0.5" in fault.says


def grasping(demo: int, steps: int = 300) -> Episode:
    """A long episode that closes once and opens once, anywhere in a chunk."""
    rng = np.random.default_rng(demo)
    actions = smooth_actions(rng, steps)
    close, open_again = sorted(rng.choice(np.arange(20, steps - 20), 2, replace=False))
    actions[:, 6] = -1
    actions[close:open_again, 6] = 1
    return replace(CHOSEN[0].episode, actions=actions.astype(np.float32))


@pytest.mark.parametrize("scale", [5.0, 10.0])
@pytest.mark.parametrize(("horizon", "execute"), [(8, 8), (8, 4), (5, 5), (5, 4)])
def test_gripper_decided_at_zero_is_seen_in_long_episodes(horizon: int, execute: int, scale: float) -> None:
    tokenizer = action_tokenizer.fit([np.zeros((horizon, 7))], horizon, scale, 512)
    right = replace(GOOD, tokenizer=tokenizer)
    episodes = [grasping(demo) for demo in range(6)]
    assert gripper_fault(measure(episodes, ActionPath(right, right), execute).pairs) is None
    pairs = measure(episodes, ActionPath(right, fakes.planted(fakes.ZeroThreshold, right)), execute).pairs
    assert np.mean(pairs.recorded[:, 6] != pairs.deployed[:, 6]) < 0.02  # few of all steps
    fault = gripper_fault(pairs)
    assert fault is not None
    assert fault.part is Part.GRIPPER
    assert "of 1800, in 12 openings and closings; 100% of these steps are deployed open" in fault.says


def test_a_simulator_whose_gripper_is_inverted_fails_the_raw_replay() -> None:
    found = examined(ActionPath(GOOD, GOOD), world.INVERTED)
    fault = only(found.faults)
    assert fault.part is Part.SIMULATOR
    assert "6 of 6 recordings fail as they are (object/00/000, " in fault.says


def test_a_recording_that_cannot_be_started_says_why() -> None:
    with pytest.raises(EnvironmentProblem, match=r"demonstration 0 of libero_object, task 0, .*places of shelf_main"):
        examined(ActionPath(GOOD, GOOD), world.SHELVED)
    short = replace(CHOSEN[0], start=replace(CHOSEN[0].start, init_state=np.zeros(5)))
    with pytest.raises(EnvironmentProblem, match="states have 5 numbers, this simulator's 7: other assets"):
        examined(ActionPath(GOOD, GOOD), chosen=[short])


def test_what_the_simulator_breaks_on_as_recorded_is_the_simulators() -> None:
    found = examined(ActionPath(GOOD, GOOD), world.BROKEN, CHOSEN[:2])  # task 0 and task 1
    fault = only(found.faults)
    assert fault.part is Part.SIMULATOR
    assert "it broke on 1 of 2 recordings as recorded; these count neither" in fault.says
    assert "object/00/000: 3 attempts: simulator died" in fault.says
    assert "mj_step diverged" in fault.says
    (row,) = found.rows
    assert (row.demos, row.raw, row.errors, row.passed, row.lost, row.rate) == (2, 1, 0, 1, (), 1.0)
    assert not found.good


def test_what_the_simulator_breaks_on_through_the_path_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_breaks(chosen, policy, protocol, pool):
        results = roll_out(chosen, policy, protocol, pool)
        if isinstance(policy, OraclePolicy):
            first = chosen[0].key
            results[first] = replace(results[first], outcome=Outcome.ERROR, reason="3 attempts: simulator died")
        return results

    monkeypatch.setattr("evaluation.oracle.roll_out", first_breaks)
    found = examined(ActionPath(GOOD, GOOD))
    fault = only(found.faults)
    assert fault.part is Part.SIMULATOR
    assert "broke on 1 of 6 recordings through the path, 8 executed" in fault.says
    assert fault.says.endswith("object/00/000: 3 attempts: simulator died")
    (row,) = found.rows
    assert (row.raw, row.errors, row.judged, row.passed, row.lost, row.rate) == (6, 1, 5, 5, (), 1.0)
    assert row.good
    assert not found.good  # what was not seen is not right


def test_recordings_with_the_gripper_inverted() -> None:
    actions, fingers = CHOSEN[0].episode.actions, CHOSEN[0].episode.proprio[:, 6:]
    assert recorded_gripper_fault([actions], [fingers]) is None
    fault = recorded_gripper_fault([actions * np.array([1, 1, 1, 1, 1, 1, -1])], [fingers])
    assert fault is not None
    assert fault.part is Part.GRIPPER
    assert "77 mm apart, after -1 (open) 20 mm" in fault.says
    assert recorded_gripper_fault([actions[:20]], [fingers[:20]]) is None  # never closed: nothing to compare


def test_another_subsets_statistics_through_the_simulator() -> None:
    wide = [fakes.recording(demo) for demo in range(20, 22)]
    other = fakes.statistics(wide, "libero_goal")
    other = replace(other, unit=other.unit * 1.5, centre=other.centre + 0.2)
    with SimulatorPool(1, world.ENV, world.FACTORY) as pool:
        path = ActionPath(GOOD, replace(GOOD, statistics=other))
        found = examine(CHOSEN, path, [protocol(8)], pool, [fakes.statistics(wide, "libero_long"), other])
    fault = only(found.faults)
    assert fault.part is Part.STATISTICS
    assert "statistics of libero_goal, and were normalised with those of libero_object" in fault.says
    assert found.rows[0].passed < found.rows[0].raw == 6


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaled_statistics(factor: float) -> None:
    scaled = replace(GOOD.statistics, unit=GOOD.statistics.unit * factor, centre=GOOD.statistics.centre * factor)
    fault = only(offline(replace(GOOD, statistics=scaled)))
    assert fault.part is Part.STATISTICS
    assert f"scaled or shifted: dx = {factor:.2f} x recorded" in fault.says


def test_shifted_statistics() -> None:
    fault = only(offline(replace(GOOD, statistics=replace(GOOD.statistics, centre=GOOD.statistics.centre + 0.1))))
    assert fault.part is Part.STATISTICS
    assert "dy = 1.00 x recorded +0.1" in fault.says


def test_actions_in_a_turned_frame() -> None:
    fault = only(offline(fakes.planted(fakes.TurnedFrame, GOOD)))
    assert fault.part is Part.FRAME
    assert "dx is the recorded -dx, dy is the recorded -dy" in fault.says
    assert "dz" not in fault.says


class Late(Interface):
    """Writes at each step what the step before the last asked for."""

    def codes(self, actions: np.ndarray, step: int) -> list[int]:
        return super().codes(actions, max(step - 2, 0))


def test_actions_late() -> None:
    late = Late(GOOD.tokenizer, GOOD.statistics, GOOD.image_size)
    path = ActionPath(late, GOOD)
    faults = action_faults(measure([r.episode for r in CHOSEN], path, 4), path)
    assert Part.CHUNK_LENGTH in {f.part for f in faults}
    assert any("executed 2 steps late" in f.says for f in faults)


# ------------------------------------------------------------------ planted faults of the tokenizer


def test_a_tokenizer_that_reads_the_same_codes_otherwise() -> None:
    """As many codes, each as long, other coefficients: nothing is undecodable."""
    for factor, part in ((2, Part.STATISTICS), (1 / 3, Part.TOKENIZER)):  # half of all is a scale; thrice is clipped
        other = action_tokenizer.FastTokenizer(GOOD.tokenizer.scale * factor, 8, GOOD.tokenizer.alphabet)
        faults = [f for f in offline(replace(GOOD, tokenizer=other)) if f.part is not Part.GRIPPER]
        assert only(faults).part is part

    class Shuffled(type(GOOD.tokenizer)):
        def decode(self, codes):
            return super().decode(codes)[:, [1, 2, 0, 4, 5, 3, 6]][::-1]

    shuffled = Shuffled(GOOD.tokenizer.scale, 8, GOOD.tokenizer.alphabet)
    fault = only([f for f in offline(replace(GOOD, tokenizer=shuffled), execute=8) if f.part is not Part.GRIPPER])
    assert fault.part is Part.TOKENIZER
    assert "the tokenizer that decodes is not the one that encoded" in fault.says


def test_a_tokenizer_of_another_fit_is_named_without_a_rollout() -> None:
    found = examined(ActionPath(GOOD, replace(GOOD, tokenizer=fitted_actions())))
    fault = only(found.faults)
    assert fault.part is Part.TOKENIZER
    assert "chunks cannot be read by the deployed tokenizer; object/00/000 step 0" in fault.says
    assert found.rows[0].passed == 0


def test_codes_that_constrained_decoding_would_not_write() -> None:
    codes = GOOD.codes(CHOSEN[0].episode.actions, 0)
    check_possible(GOOD.constraint, codes)
    for wrong in (codes[:-1], [*codes, codes[0]], [10**6]):
        with pytest.raises(UndecodableAction):
            check_possible(GOOD.constraint, wrong)


# ------------------------------------------------------------------ planted faults of the pictures


def test_a_frame_upside_down_through_the_simulator() -> None:
    found = examined(ActionPath(GOOD, GOOD), world.UPSIDE_DOWN)
    fault = only(found.faults)
    assert fault.part is Part.FRAME
    assert "the deployed frame is upside down against training's" in fault.says
    assert found.rows[0].passed == 6  # the oracle does not look; a policy would


@pytest.mark.parametrize(
    ("turn", "name"),
    [
        (lambda i: i[::-1], "upside down"),
        (lambda i: i[:, ::-1], "mirrored"),
        (lambda i: i[::-1, ::-1], "rotated by 180 degrees"),
        (lambda i: RNG.integers(0, 255, i.shape, np.uint8), "another picture than training's"),
        (lambda i: i[:28, :28], "another picture than training's"),
    ],
)
def test_turned_frames(turn, name) -> None:
    images = [world.picture(np.array([x, 0, 0]))[:56, :56] for x in (-1.0, 0.0, 1.0)]
    noisy = [np.clip(i.astype(int) + RNG.integers(-3, 4, i.shape), 0, 255).astype(np.uint8) for i in images]
    assert frame_fault(images, noisy) is None
    fault = frame_fault(images, [turn(i) for i in noisy], "(look light, here official)")
    assert fault is not None
    assert fault.part is Part.FRAME
    assert name in fault.says


def test_no_picture_is_no_other_picture() -> None:
    assert frame_fault([], []) is None


def test_environments_are_told_apart() -> None:
    assert differing({"look": "light", "mujoco": "3"}, {"look": "official", "mujoco": "3"}) == (
        "(look light, here official)"
    )
    assert differing({"a": 1}, {"a": 1}) == ""


# ------------------------------------------------------------------ planted faults of a checkpoint folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_adapter(tmp_path, BASELINE).checkpoint


def faults_of(checkpoint: Path, taught: Interface | None = None) -> list[Fault]:
    deployed, card = load_interface(checkpoint)
    return card_faults(card, deployed, taught or deployed)


def test_a_whole_checkpoint_has_no_fault(checkpoint: Path) -> None:
    assert faults_of(checkpoint) == []
    assert length_faults(load_interface(checkpoint)[0], HORIZON, protocol(4)) == []


def test_wrong_tokenizer_and_chunk_length_beside_the_weights(checkpoint: Path) -> None:
    fitted_actions(codes=300).save(checkpoint / ACTION_TOKENIZER_FILE)
    fault = only(faults_of(checkpoint))
    assert fault.part is Part.TOKENIZER
    assert "is not the one of training" in fault.says
    fitted_actions(horizon=5).save(checkpoint / ACTION_TOKENIZER_FILE)
    assert [f.part for f in faults_of(checkpoint)] == [Part.TOKENIZER, Part.CHUNK_LENGTH]
    deployed, _ = load_interface(checkpoint)
    assert [f.says for f in length_faults(deployed, 8, protocol(8))] == [
        "action.horizon=8, but the deployed tokenizer spells chunks of 5 steps",
        "the protocol standard executes 8 steps of chunks of 5; allowed for action.execute: at most 5",
    ]


def test_wrong_statistics_and_frame_beside_the_weights(checkpoint: Path) -> None:
    save_card(checkpoint, replace(load_card(checkpoint), image_frame="upright"))
    deployed, _ = load_interface(checkpoint)
    other = replace(deployed.statistics, dataset="libero_goal", record=deployed.statistics.record)
    other.save(checkpoint / "dataset_statistics.json")
    faults = faults_of(checkpoint, deployed)
    assert [f.part for f in faults] == [Part.STATISTICS, Part.FRAME]
    assert faults[0].says == "the statistics beside the weights are those of libero_goal, not libero_object"
    assert "'upright' (card), and evaluation shows 'rot180'" in faults[1].says
