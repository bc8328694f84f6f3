"""libero_90: which tasks an asset set can show, said before anything runs; and that those do run."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.choices import STUDY, Look, Subset
from configs.data import EnvConfig
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.libero_utils import parse_tasks, tasks_text
from data_pipeline.sim import assets

BUILTIN = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=128)
KNOWN = "0-34,38-39,46-54,65-85"
"""Tasks all of whose objects are in the built-in set: those of the four suites."""


def test_the_built_in_set_names_what_it_lacks_and_what_can_be_run() -> None:
    with pytest.raises(EnvironmentProblem) as refused:
        assets.check_objects(BUILTIN, Subset.NINETY, range(90))
    said = str(refused.value)
    assert "lack new_salad_dressing, white_bowl, wooden_tray, wooden_two_layer_shelf, yellow_book" in said
    assert "in tasks 35-37,40-45,55-64,86-89" in said
    assert "nora-ecot download --assets" in said
    assert said.endswith(f"--tasks {KNOWN}")
    runnable = parse_tasks(KNOWN, range(90))
    assert len(runnable) == 67
    assets.check_objects(BUILTIN, Subset.NINETY, runnable)


def test_a_single_task_that_cannot_be_shown_offers_no_others() -> None:
    with pytest.raises(EnvironmentProblem, match=r"lack white_bowl, which libero_90 needs in tasks 36;") as refused:
        assets.check_objects(BUILTIN, Subset.NINETY, (36,))
    assert "--tasks" not in str(refused.value)


@pytest.mark.parametrize("subset", STUDY)
def test_the_study_needs_nothing_more(subset: Subset) -> None:
    assets.check_objects(BUILTIN, subset, range(10))


def test_an_official_set_is_to_be_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = assets.AssetSet("official", tmp_path, "")
    monkeypatch.setattr(assets, "resolve", lambda kind: found)
    with pytest.raises(EnvironmentProblem, match="complete it from the Hugging Face data set lerobot/libero-assets"):
        assets.check_objects(EnvConfig(assets="official"), Subset.NINETY, (0,))


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("task", parse_tasks(KNOWN, range(90)), ids=lambda task: tasks_text([task]))
def test_a_task_whose_objects_are_known_builds_and_takes_its_official_states(task: int) -> None:
    from data_pipeline.sim.environment import LiberoEnv

    env = LiberoEnv(Subset.NINETY, task, BUILTIN)
    assert env.num_init_states == 50
    env.reset(0, 49)
    env.settle(10)
    env.success()
    assert env.render("agentview").std() > 10
    env.close()
