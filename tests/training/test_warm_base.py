"""Adapters that follow each other on one base in memory are what fresh loads give, bit for bit."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.checks import ConfigError
from tests.helpers.tiny_adapter import BASELINE, FLOW_CODES, SMALL, TEXT_COT, TEXT_FLOW_COT, write_tiny_adapter
from training import loaded_policy
from training.loaded_policy import LoadedPolicy, load_checkpoint
from training.warm_base import WarmBase

NO_SPARE_ROWS = replace(SMALL, flow_rows=FLOW_CODES - 3)
"""So that the phase with flow tokens makes the embedding larger, and the others make it smaller again."""


@pytest.fixture(scope="module", params=[SMALL, NO_SPARE_ROWS], ids=["spare rows", "resized"])
def adapters(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Phase -> (checkpoint, base). The bases have equal contents."""
    made = {}
    for number, phase in enumerate((BASELINE, TEXT_COT, TEXT_FLOW_COT)):
        folder = tmp_path_factory.mktemp(phase.name)
        adapter = write_tiny_adapter(folder, phase, request.param)
        louder(adapter.checkpoint / "adapter_model.safetensors", number)
        made[phase.name] = adapter.checkpoint, adapter.base
    return made


def louder(weights: Path, seed: int) -> None:
    """A fresh adapter's B is zero: nothing would be merged."""
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(t.shape, generator=generator) * 0.3 for name, t in load_file(weights).items()}
    save_file(values, weights, metadata={"format": "pt"})


def load(adapters: dict[str, tuple[Path, Path]], phase: str, warm: WarmBase | None = None) -> LoadedPolicy:
    checkpoint, base = adapters[phase]
    return load_checkpoint(checkpoint, base, "cpu", torch.float32, warm)


def state(loaded: LoadedPolicy) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in loaded.model.state_dict().items()}


def test_phases_in_any_order_equal_fresh_loads(
    adapters: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ["baseline", "text_flow_cot", "text_cot", "baseline", "text_flow_cot"]
    fresh = {phase: state(load(adapters, phase)) for phase in set(order)}
    assert any(not torch.equal(a, fresh["text_cot"][name]) for name, a in fresh["baseline"].items())
    loads: list[Path] = []
    plain = loaded_policy.load_base
    monkeypatch.setattr(loaded_policy, "load_base", lambda folder, dtype: loads.append(folder) or plain(folder, dtype))
    warm = WarmBase()
    for phase in order:
        loaded = load(adapters, phase, warm)
        found = state(loaded)
        assert found.keys() == fresh[phase].keys()
        assert all(torch.equal(found[name], value) for name, value in fresh[phase].items()), phase
        assert loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight
        assert loaded.model.config.text_config.vocab_size == loaded.model.get_input_embeddings().num_embeddings
    assert len(loads) == 1


def bytes_alive() -> int:
    gc.collect()
    return sum(o.untyped_storage().nbytes() for o in gc.get_objects() if isinstance(o, torch.Tensor))


def test_memory_does_not_grow_with_the_number_of_adapters(adapters: dict[str, tuple[Path, Path]]) -> None:
    warm, found = WarmBase(), []
    for _ in range(3):
        for phase in adapters:
            load(adapters, phase, warm)
        found.append(bytes_alive())
    assert found[1] == found[2]
    warm.release()
    assert bytes_alive() < found[2]


def test_an_adapter_that_fails_half_way_leaves_no_base_behind(
    adapters: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    import json
    import shutil

    warm = WarmBase()
    before = state(load(adapters, "baseline", warm))
    broken = shutil.copytree(adapters["text_cot"][0], tmp_path / "broken")
    values = json.loads((broken / "adapter_config.json").read_text())
    values["target_modules"] = r"model\.visual\.blocks\.\d+\.mlp\.gate_proj"
    (broken / "adapter_config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="no adapter of this project"):
        load_checkpoint(broken, adapters["text_cot"][1], "cpu", torch.float32, warm)
    after = state(load(adapters, "baseline", warm))
    assert all(torch.equal(after[name], value) for name, value in before.items())
