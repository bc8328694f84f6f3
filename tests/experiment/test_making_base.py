"""What `make_base` writes: the folder as the stage made it, and a manifest that tells from what."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from configs.choices import STUDY
from experiment import compose
from experiment.making_base import RECIPE, compared, export
from experiment.stages import StageNode, stored_node
from experiment.store import Manifest, Store
from tests.helpers.synthetic import write_synthetic_subset
from tests.helpers.tiny_adapter import write_tiny_base
from training.shipped_base import ShippedBase

MADE = Manifest("base", "k", "", 1, {}, {}, {}, "", 120.0, {"commit": "abc"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for subset in STUDY:
        write_synthetic_subset(root / "demos" / subset.value, subset, demos=1, steps=4, size=28)
        (root / "annotate" / subset.value).mkdir(parents=True)
        (root / "annotate" / subset.value / "annotations.json").write_text("{}")
    write_tiny_base(root / "base" / "k" / "base")
    return root


def node() -> StageNode:
    inputs = {f"regenerate/{s.value}": stored_node("demos", s.value, s.value) for s in STUDY}
    inputs |= {f"annotate/{s.value}": stored_node("annotate", s.value, s.value) for s in STUDY}
    return cast(Any, SimpleNamespace(stage="base", key="k", inputs=inputs))


def made(store: Path, target: Path) -> dict[str, str]:
    config = compose.compose(compose.find_phase("baseline"), RECIPE)
    export(Store(store), node(), MADE, config, target)
    return ShippedBase.read(target).data


def test_the_folder_is_whole_and_fits_what_made_it(store: Path, tmp_path: Path) -> None:
    made(store, tmp_path / "out")
    shipped = ShippedBase.read(tmp_path / "out")
    shipped.verify()
    shipped.check_fits(compose.compose(compose.find_phase("baseline"), ["preset=tiny"]))
    names = {path.name for path in (store / "base" / "k" / "base").iterdir()}
    assert shipped.files.keys() == names


def test_the_data_are_known_by_content(store: Path, tmp_path: Path) -> None:
    before = made(store, tmp_path / "one")
    assert made(store, tmp_path / "two") == before
    (store / "annotate" / "object" / "annotations.json").write_text('{"other": 1}')
    now = made(store, tmp_path / "two")
    assert now["demonstrations"] == before["demonstrations"]
    assert now["annotations"] != before["annotations"]
    told = compared(before, now).splitlines()
    assert told[0].endswith("the same as before")
    assert told[1].endswith(f"before {before['annotations'][:16]}")
