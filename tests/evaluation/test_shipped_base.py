"""The tiny base that comes with the project: whole, what its manifest says, and able to act."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.checks import ConfigError
from configs.choices import Look, Stepping, Subset
from configs.data import EnvConfig
from configs.schema import ExperimentConfig
from configs.slices import ShippedSlice
from data_pipeline.contract import AGENTVIEW, EnvironmentProblem, StageContext
from data_pipeline.libero_utils import MAX_STEPS
from evaluation.policy import Batching, VlaPolicy
from evaluation.policy_api import Observation
from experiment import compose
from experiment.making_base import RECIPE
from tests.helpers.shipped_policy import load_shipped
from training import shipped_base
from training.shipped_base import MANIFEST, SHIPPED, ShippedBase, run_shipped

GOLDEN = Path(__file__).parent / "golden"
INSTRUCTION = "pick up the alphabet soup and place it in the basket"
BATCHING = Batching(rows=1, fixed=True, max_new_tokens=64)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, where it may be damaged."""
    folder = tmp_path / "tiny_base"
    shutil.copytree(SHIPPED, folder)
    monkeypatch.setattr(shipped_base, "SHIPPED", folder)
    return folder


def config(*overrides: str) -> ExperimentConfig:
    return compose.compose(compose.find_phase("baseline"), ["preset=tiny", *overrides])


def test_every_file_is_what_the_manifest_says_and_all_are_small() -> None:
    ShippedBase.read().verify()
    files = {path.name: path.stat().st_size for path in SHIPPED.iterdir()}
    assert files.keys() - {MANIFEST} == ShippedBase.read().files.keys()
    assert sum(files.values()) < 20e6


def test_the_manifest_says_how_to_make_it_again() -> None:
    manifest = json.loads((SHIPPED / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["recipe"] == list(RECIPE)
    made = config(*RECIPE[1:])
    assert (manifest["seed"], manifest["steps"]) == (made.base.seed, made.base.steps)
    ShippedBase.read().check_fits(made)
    assert set(manifest["data"]) == {"demonstrations", "annotations"}


def test_a_damaged_file_is_named_with_what_mends_it(copy: Path) -> None:
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(EnvironmentProblem, match=r"model\.safetensors is damaged .*git checkout"):
        ShippedBase.read(copy).verify()
    weights.unlink()
    with pytest.raises(EnvironmentProblem, match=r"model\.safetensors is damaged \(sha256 missing"):
        ShippedBase.read(copy).verify()
    (copy / MANIFEST).write_text('{"files": {')
    with pytest.raises(EnvironmentProblem, match=r"manifest\.json is damaged .*git checkout"):
        ShippedBase.read(copy)
    (copy / MANIFEST).unlink()
    with pytest.raises(EnvironmentProblem, match="has no tiny base"):
        ShippedBase.read(copy)


def test_the_stage_gives_the_files_and_refuses_others_than_planned(tmp_path: Path) -> None:
    files = tuple(sorted(ShippedBase.read().files.items()))
    context = StageContext(tmp_path, {})
    assert run_shipped(ShippedSlice(files), context) == ["base"]
    assert {path.name for path in (tmp_path / "base").iterdir()} == {name for name, _ in files}
    with pytest.raises(ConfigError, match="has changed since this was planned"):
        run_shipped(ShippedSlice(files[1:]), context)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden=64", r"model\.hidden=64, .* has 128; .*model\.base=scratch"),
        ("action.horizon=4", r"action\.horizon=4, .* has 8"),
        ("action.normalization=normal", r"action\.normalization=normal, .* has bounds"),
    ],
)
def test_a_setting_that_it_cannot_have_is_refused(override: str, message: str) -> None:
    words = [override, "action.execute=4"] if "horizon" in override else [override]
    with pytest.raises(ConfigError, match=message):
        ShippedBase.read().check_fits(config(*words))


def test_a_known_frame_gives_a_known_chunk() -> None:
    """The first frame of official initial state 0 of object/0, as the simulator draws it."""
    frame = cv2.cvtColor(cv2.imread(str(GOLDEN / "object_0_0.png")), cv2.COLOR_BGR2RGB)
    (decision,) = VlaPolicy(load_shipped(Subset.OBJECT), BATCHING).act([Observation(frame, INSTRUCTION, False, 0)])
    known = np.array(json.loads((GOLDEN / "object_0_0.json").read_text(encoding="utf-8")))
    np.testing.assert_allclose(decision.actions, known, atol=1e-3)


@pytest.mark.slow
@pytest.mark.sim
def test_without_an_adapter_it_solves_an_episode_that_no_demonstration_starts_from() -> None:
    from data_pipeline.sim.environment import LiberoEnv

    policy = VlaPolicy(load_shipped(Subset.OBJECT), BATCHING)
    drawn = EnvConfig(assets="builtin", look=Look.LIGHT, stepping=Stepping.EXACT, resolution=128)
    env = LiberoEnv(Subset.OBJECT, 0, drawn)
    env.reset(seed=0, init_state=0)
    env.settle(10)
    done = False
    for step in range(0, MAX_STEPS[Subset.OBJECT], 8):
        (decision,) = policy.act([Observation(env.render(AGENTVIEW), INSTRUCTION, False, step)])
        done = done or any([env.step(action) for action in decision.actions])
        if done:
            break
    env.close()
    assert done
