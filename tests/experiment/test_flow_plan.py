"""The stage `flow` in the plan: RAFT's weights count by content, and only where RAFT is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.choices import Subset
from data_pipeline.contract import EnvironmentProblem
from experiment import compose
from experiment.plan import Data, Places
from experiment.resolve import DataSource
from experiment.stages import StageNode

SOURCES = {subset: DataSource("expert") for subset in Subset}


def planned(folder: Path, *overrides: str) -> StageNode:
    fixed = ["preset=tiny", "env.assets=builtin", "data.source=expert"]
    config = compose.compose(compose.find_phase("text_flow_cot"), [*fixed, *overrides])
    return Data(config, SOURCES, Places(folder / "outputs", folder / "data")).flow(Subset.OBJECT)


def raft(folder: Path, weights: Path, *overrides: str) -> StageNode:
    return planned(folder, "flow.backend=raft", f"flow.raft_weights={weights}", *overrides)


def test_weights_are_keyed_by_content_not_by_path(tmp_path: Path) -> None:
    first, copy = tmp_path / "a.pth", tmp_path / "elsewhere.pth"
    first.write_bytes(b"one")
    copy.write_bytes(b"one")
    key = raft(tmp_path, first).key
    assert raft(tmp_path, copy).key == key
    copy.write_bytes(b"another")
    assert raft(tmp_path, copy).key != key
    assert raft(tmp_path, first).worker == "torch"


def test_network_and_number_format_are_in_the_key(tmp_path: Path) -> None:
    own = ["flow.backend=raft"]
    settings = ([], ["flow.raft_model=raft_small"], ["flow.raft_bf16=false"])
    assert len({planned(tmp_path, *own, *chosen).key for chosen in settings}) == 3


def test_other_backends_do_not_depend_on_raft(tmp_path: Path) -> None:
    chosen = ["flow.raft_model=raft_small", "flow.raft_weights=/nowhere.pth"]
    assert planned(tmp_path, "flow.backend=sim", *chosen).key == planned(tmp_path, "flow.backend=sim").key


def test_missing_weights_end_the_plan_with_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no file; name raft_small's .*flow\.backend=sim"):
        raft(tmp_path, tmp_path / "none.pth", "flow.raft_model=raft_small")
