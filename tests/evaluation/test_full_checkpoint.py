"""A whole model from elsewhere: its weights in either layout, its own statistics, its own picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.checks import ConfigError
from configs.choices import Mode, Subset
from configs.data import EnvConfig
from configs.model import ActionConfig, TrainerConfig
from configs.schema import EvalConfig
from configs.slices import FullCheckpoint, FullSlice
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.image_frame import openvla_image
from evaluation.full_checkpoint import load_full
from evaluation.nora_statistics import entries_with, expected_horizon, nora_entries, typed_entries
from evaluation.policy_api import Decision, Observation
from tests.helpers.full_checkpoint import BOUNDS, write_full, write_statistics
from tests.helpers.tiny_adapter import SMALL, write_hub_fast
from training.action_tokenizer import from_hub_files
from training.base_folder import locate_base


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_fast(tmp_path_factory.mktemp("fast"))


@pytest.fixture(scope="module", params=[4, 5], ids=["transformers 4", "transformers 5"])
def folder(request: pytest.FixtureRequest, fast: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codes = from_hub_files(str(fast), 5).num_codes
    made = write_full(tmp_path_factory.mktemp("full"), codes, request.param)
    write_statistics(made / "norm_stats.json", "bridge_orig", "libero_object_no_noops")
    return made


def slice_of(folder: Path, fast: Path, **changes: object) -> FullSlice:
    action = ActionConfig(tokenizer=str(fast), horizon=5, execute=5)
    name = locate_base(str(folder)).name
    values = {"statistics": "{}", "unnorm_key": "", **changes}
    return FullSlice(
        subset=Subset.OBJECT,
        tasks=(0,),
        modes=(Mode.NO_THINK,),
        eval=EvalConfig(num_trials=1),
        env=EnvConfig(),
        trainer=TrainerConfig(torch_threads=1, device="cpu"),
        execute=5,
        checkpoint=FullCheckpoint(name, action, SMALL.image_size, system_prompt=True, path=str(folder), **values),
    )


def decisions(subject) -> list[Decision]:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    return subject.policy.act([Observation(image, "push the plate", False, 0) for image in images])


def test_both_layouts_load_whole_and_act_by_their_own_bounds(folder: Path, fast: Path) -> None:
    subject = load_full(slice_of(folder, fast))
    assert subject.card["base"].startswith("local:")
    assert subject.card["statistics"] == "libero_object_no_noops"
    low, high = np.array(BOUNDS["q01"][:6]), np.array(BOUNDS["q99"][:6])
    for decision in decisions(subject):
        assert decision.actions.shape == (5, 7)
        assert (decision.actions[:, :6] >= low - 1e-6).all()
        assert (decision.actions[:, :6] <= high + 1e-6).all()
        assert set(decision.actions[:, 6].tolist()) <= {-1.0, 1.0}


def test_the_layouts_hold_the_same_model(fast: Path, tmp_path: Path) -> None:
    codes = from_hub_files(str(fast), 5).num_codes
    acted = []
    for layout in (4, 5):
        made = write_full(tmp_path / str(layout), codes, layout)
        write_statistics(made / "norm_stats.json", "libero_object")
        acted.append(b"".join(d.actions.tobytes() for d in decisions(load_full(slice_of(made, fast)))))
    assert acted[0] == acted[1]


def test_weights_of_another_model_are_refused(fast: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    made = write_full(tmp_path / "full", from_hub_files(str(fast), 5).num_codes)
    write_statistics(made / "norm_stats.json", "libero_object")
    weights = load_file(made / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layers.1.mlp" not in name}
    save_file(kept, made / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"missing model\.language_model\.layers\.1\.mlp"):
        load_full(slice_of(made, fast))


def test_named_statistics_win_over_those_that_come_with_the_model(folder: Path, fast: Path) -> None:
    entries = typed_entries("nora", "libero_object", "")
    subject = load_full(slice_of(folder, fast, statistics=json.dumps(entries)))
    assert subject.card["statistics"] == "libero_object"
    assert subject.adapter != load_full(slice_of(folder, fast)).adapter


def test_a_changed_folder_and_a_missing_hub_model_say_so(
    folder: Path, fast: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = slice_of(folder, fast)
    assert other.checkpoint is not None
    object.__setattr__(other.checkpoint, "name", "local:0")
    with pytest.raises(ConfigError, match="has changed since"):
        load_full(other)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    object.__setattr__(other.checkpoint, "path", "")
    object.__setattr__(other.checkpoint, "name", "nobody/nora@" + "0" * 40)
    with pytest.raises(EnvironmentProblem, match=r"--lora_path 'nobody/nora': no such folder.*hf download nobody/nora"):
        load_full(other)


# ------------------------------------------------------------------ statistics


def test_statistics_are_found_by_the_suites_usual_names_in_any_of_the_usual_places(tmp_path: Path) -> None:
    for place in ("norm_stats.json", "dataset_statistics.json", "config.json"):
        folder = tmp_path / place
        folder.mkdir()
        path = write_statistics(folder / place, "bridge_orig", "libero_10_no_noops")
        if place == "config.json":
            path.write_text(json.dumps({"norm_stats": json.loads(path.read_text())}))
        assert list(entries_with(folder, "somebody/model", "libero_10", "")) == ["libero_10_no_noops"]
        assert list(entries_with(folder, "somebody/model", "libero_10", "bridge_orig")) == ["bridge_orig"]


def test_missing_statistics_are_refused_with_what_is_there_and_what_to_type(tmp_path: Path) -> None:
    write_statistics(tmp_path / "norm_stats.json", "bridge_orig")
    with pytest.raises(ConfigError) as refused:
        entries_with(tmp_path, "somebody/model", "libero_object", "")
    for words in ("'libero_object' or 'libero_object_no_noops'", "there: bridge_orig", "--unnorm_key", "--statistics"):
        assert words in str(refused.value)
    with pytest.raises(ConfigError, match="no such file"):
        typed_entries(str(tmp_path / "missing.json"), "libero_object", "")
    with pytest.raises(ConfigError, match="no action statistics of 'libero_90'"):
        typed_entries("nora", "libero_90", "libero_90")


def test_noras_own_bounds_stand_in_where_its_checkpoints_bring_none_of_libero(tmp_path: Path) -> None:
    write_statistics(tmp_path / "norm_stats.json", "bridge_orig")
    hub_id = "declare-lab/nora-long-finetuned-libero-object"
    entries = entries_with(tmp_path, hub_id, "libero_object", "")
    statistics = ActionStatistics.from_record("libero_object", entries["libero_object"])
    middle = statistics.unnormalize(np.array([[0.0] * 6 + [0.6], [1.0] * 6 + [0.4]]))
    # 0.5 (x + 1) (q99 - q01) + q01, as NORA's evaluation computes it; 1 is open, decided at 0.5
    q01, q99 = (np.array(nora_entries()["libero_object"]["action"][key])[:6] for key in ("q01", "q99"))
    np.testing.assert_allclose(middle[:, :6], [(q01 + q99) / 2, q99], rtol=1e-6)
    assert middle[:, 6].tolist() == [-1.0, 1.0]
    assert (expected_horizon(hub_id), expected_horizon("declare-lab/nora-finetuned-libero-object")) == (5, 1)


# ------------------------------------------------------------------ the picture


def test_openvlas_picture_is_turned_as_ours_and_nearly_the_same() -> None:
    rows, columns = np.mgrid[0:256, 0:256]
    image = np.stack([rows, columns, np.full_like(rows, 90)], axis=-1).astype(np.uint8)
    shown = openvla_image(image, 224)
    assert shown.shape == (224, 224, 3)
    assert shown.dtype == np.uint8
    plain = cv2.resize(image[::-1, ::-1], (224, 224), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - plain.astype(int))[4:-4, 4:-4].max() <= 4
    squares = 60 + 140 * (np.indices((43, 43)).sum(0) % 2)
    checked = np.kron(squares[..., None], np.ones((6, 6, 3)))[:256, :256].astype(np.uint8)
    sharp = openvla_image(checked, 224)
    assert sharp.min() < 45  # Lanczos overshoots at edges, areas do not
    assert sharp.max() > 215
