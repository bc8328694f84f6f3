"""Which stages a tiny base brings: the shipped one no others, one trained here the data of all four subsets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.checks import ConfigError
from configs.choices import STUDY, Control, Subset
from experiment import compose
from experiment.data_stages import Data
from experiment.places import Places
from experiment.plan import Run, control_node, replay_node, train_node
from experiment.resolve import find_source, needed_subsets, resolve
from experiment.stages import StageNode, topological


def run_of(folder: Path, *overrides: str) -> Run:
    words = ["preset=tiny", "env.assets=builtin", "data.source=expert", *overrides]
    config = compose.compose(compose.find_phase("baseline"), words)
    resolved = resolve(config, needed_subsets(config, [Subset.OBJECT]), folder, find_source)
    return Run(resolved.config, Subset.OBJECT, resolved.sources)


def trained(folder: Path, *overrides: str) -> StageNode:
    return train_node(run_of(folder, *overrides), Places(folder, folder))


def stages(node: StageNode) -> list[str]:
    return sorted(one.label.removesuffix(" baseline/object") for one in topological([node]))


def test_on_the_shipped_base_one_subset_is_enough(tmp_path: Path) -> None:
    assert stages(trained(tmp_path)) == ["demos object", "regenerate object", "shipped", "split object", "train"]


def test_from_scratch_all_subsets_are_needed_and_one_scale_serves_them(tmp_path: Path) -> None:
    node = trained(tmp_path, "model.base=scratch")
    made = [f"{stage} {subset.value}" for stage in ("annotate", "demos", "regenerate", "split") for subset in STUDY]
    assert stages(node) == sorted(["base", "train", *made])
    assert node.inputs["base"].stage == "base"


def test_how_adapters_train_is_in_no_other_key(tmp_path: Path) -> None:
    places, how = Places(tmp_path, tmp_path), ("trainer.keep_every=5", "trainer.gradient_checkpointing=true")
    plain, other = (trained(tmp_path, "model.base=scratch", *words) for words in ((), how))
    assert plain.key != other.key
    assert plain.inputs["base"].key == other.inputs["base"].key
    controls = [control_node(run_of(tmp_path, *words), Control.ZERO).key for words in ((), how)]
    replays = [replay_node(run_of(tmp_path, *words), places).key for words in ((), how)]
    assert len({*controls, *replays}) == 2


def test_another_model_takes_the_scale_of_its_own_subset(tmp_path: Path) -> None:
    node = trained(tmp_path, "model.base=declare-lab/nora", "action.tokenizer=physical-intelligence/fast")
    assert "stats" in node.inputs
    assert "base" not in node.inputs


def test_a_size_that_the_shipped_base_has_not_is_refused_when_planned(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.layers=2, and the tiny base .* has 3; .*model\.base=scratch"):
        trained(tmp_path, "model.layers=2")
    assert trained(tmp_path, "model.base=scratch", "model.layers=2")


def test_demonstrations_with_noise_are_not_replayed(tmp_path: Path) -> None:
    words = ["preset=tiny", "env.assets=builtin", "data.source=expert"]
    config = compose.compose(compose.find_phase("baseline"), [*words, "data.transit_noise=0.4"])
    resolved = resolve(config, [Subset.OBJECT], tmp_path, find_source)
    data = Data(resolved.config, resolved.sources, Places(tmp_path, tmp_path))
    assert data.regenerate(Subset.OBJECT).stage == "demos"
    clean = compose.compose(compose.find_phase("baseline"), words)
    plain = Data(resolve(clean, [Subset.OBJECT], tmp_path, find_source).config, resolved.sources, data.places)
    assert plain.demos(Subset.OBJECT).key != data.demos(Subset.OBJECT).key
    assert "transit_noise" not in plain.demos(Subset.OBJECT).spec.key_config


def test_the_shipped_base_is_shown_the_assets_it_has_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Official assets that are configured change what `auto` means for another base, not for this one."""
    seen: list[str] = []

    def chosen(wanted: str) -> SimpleNamespace:
        seen.append(wanted)
        return SimpleNamespace(kind="official" if wanted == "auto" else wanted, digest="d")

    monkeypatch.setattr("data_pipeline.sim.assets.resolve", chosen)
    for words, kind, said in (
        ([], "builtin", "assets: builtin, which the tiny base has learned from (env.assets)"),
        (["model.base=scratch"], "official", "assets: official (env.assets)"),
    ):
        config = compose.compose(compose.find_phase("baseline"), ["preset=tiny", "data.source=expert", *words])
        resolved = resolve(config, [Subset.OBJECT], tmp_path, find_source)
        assert resolved.config.env.assets == kind
        assert said in resolved.decisions
    assert seen == ["builtin", "auto"]
