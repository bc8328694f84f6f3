"""The stage `flow` in the plan: RAFT's weights count by content, and only where RAFT is used; what it will cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.choices import Subset
from data_pipeline.contract import EnvironmentProblem
from experiment import compose
from experiment.data_stages import Data
from experiment.flow_cost import flow_costs
from experiment.places import Places
from experiment.resolve import DataSource
from experiment.stages import StageNode
from experiment.store import Manifest, Store

VERDICT = {"success": True, "initial_state": [], "noops_removed": 0, "images": "rendered", "max_state_deviation": 0.0}
KEPT = {**VERDICT, "steps": 120, "dropped": None}
LOST = {**VERDICT, "steps": 99, "dropped": "it failed"}
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


@pytest.mark.parametrize(("devices", "keys"), [(1, 3), (0, 2)])
def test_network_and_number_format_are_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int, keys: int
) -> None:
    monkeypatch.setattr("experiment.known_files.cuda_devices", lambda: devices)
    own = ["flow.backend=raft"]
    settings = ([], ["flow.raft_model=raft_small"], ["flow.raft_bf16=false"])
    assert len({planned(tmp_path, *own, *chosen).key for chosen in settings}) == keys, "a CPU has float32 alone"


@pytest.mark.parametrize("own_weights", [False, True])
def test_bf16_of_a_cuda_device_and_float32_of_a_cpu_have_keys_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_weights: bool
) -> None:
    weights = tmp_path / "a.pth"
    weights.write_bytes(b"one")
    keys: set[str] = set()
    for devices in (0, 1):
        monkeypatch.setattr("experiment.known_files.cuda_devices", lambda found=devices: found)
        keys.add((raft(tmp_path, weights) if own_weights else planned(tmp_path, "flow.backend=raft")).key)
    assert len(keys) == 2


def test_other_backends_do_not_depend_on_raft(tmp_path: Path) -> None:
    chosen = ["flow.raft_model=raft_small", "flow.raft_weights=/nowhere.pth"]
    assert planned(tmp_path, "flow.backend=sim", *chosen).key == planned(tmp_path, "flow.backend=sim").key


def test_missing_weights_end_the_plan_with_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no file; name raft_small's .*flow\.backend=sim"):
        raft(tmp_path, tmp_path / "none.pth", "flow.raft_model=raft_small")


def costs(folder: Path, node: StageNode) -> list[str]:
    return flow_costs(Store(folder / "outputs" / ".store"), [node], ())


def test_costs_are_estimated_then_counted_then_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = planned(tmp_path, "flow.backend=dis_chain")
    assert "demonstrations not made yet); 55.6 frames/s per process (typical)" in costs(tmp_path, node)[0]
    data = Store(tmp_path / "outputs" / ".store").entry("regenerate", node.inputs["regenerate"].key)
    data.mkdir(parents=True)
    (data / "libero_object_metainfo.json").write_text(
        json.dumps({"task": {"demo_0": KEPT, "demo_1": KEPT, "demo_2": LOST}})
    )
    assert costs(tmp_path, node)[0].startswith("flow object: dis_chain, 240 frames; 55.6")
    remarks = {"flow": {"frames": 100, "seconds": 5.0, "processes": 2}}
    done = Manifest("flow", "k", "object", 2, node.spec.key_config, {}, {}, "", 9.0, {}, remarks)
    monkeypatch.setattr(Store, "manifests", lambda self, stage: [(0.0, done)])
    first, together = costs(tmp_path, node)
    assert first == "flow object: dis_chain, 240 frames; 10.0 frames/s per process (measured here)"
    assert together.startswith(
        "flow, together: 240 frames, about 24.0 s of one process; 1 MB on disk at most (4096 bytes"
    )
    other = planned(tmp_path, "flow.backend=sim")
    assert "(typical)" in costs(tmp_path, other)[0], "what another backend took says nothing"


def test_on_a_cuda_device_the_speed_of_raft_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = planned(tmp_path, "flow.backend=raft")
    assert "1.4 frames/s" in costs(tmp_path, planned(tmp_path, "flow.backend=raft", "env.resolution=256"))[0]
    monkeypatch.setattr("experiment.flow_cost.cuda_devices", lambda: 1)
    first, together = costs(tmp_path, node)
    assert first.endswith("its speed on this device is not known yet")
    assert "time not known yet" in together


def test_nothing_is_said_where_no_flow_is_to_be_made(tmp_path: Path) -> None:
    node = planned(tmp_path)
    assert flow_costs(Store(tmp_path), [node], {node.key}) == []
    assert flow_costs(Store(tmp_path), list(node.inputs.values()), ()) == []
