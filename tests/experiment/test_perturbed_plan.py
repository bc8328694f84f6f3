"""A perturbed evaluation has another key and another folder, the same adapter and the same report."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.checks import ConfigError
from configs.choices import Subset
from configs.schema import ExperimentConfig
from experiment import compose
from experiment.places import Places, evaluate_view
from experiment.plan import Run, evaluate_node, replay_node, train_node
from experiment.resolve import DataSource
from experiment.settings import variant
from experiment.study import table_place
from experiment.tables import table_group

BASELINE = compose.find_phase("baseline")


def settings(*overrides: str) -> ExperimentConfig:
    return compose.compose(BASELINE, ["preset=tiny", "env.assets=builtin", "data.source=expert", *overrides])


def planned(*overrides: str) -> tuple[Run, Places]:
    sources = {subset: DataSource("expert") for subset in Subset}
    return Run(settings(*overrides), Subset.OBJECT, sources), Places(Path("/o"), Path("/d"))


def test_it_is_published_beside_the_plain_one_and_trains_nothing_anew() -> None:
    (plain, places), (perturbed, _) = planned(), planned("eval.perturb=camera:3")
    trained = train_node(plain, places)
    assert train_node(perturbed, places).key == trained.key
    ours, theirs = evaluate_node(plain, trained, None), evaluate_node(perturbed, trained, None)
    assert ours.key != theirs.key
    assert table_group("t", ours) == table_group("t", theirs)
    folders = [evaluate_view(places, node, "").folder for node in (ours, theirs, replay_node(perturbed, places))]
    assert [str(folder.relative_to("/o/eval_results")) for folder in folders] == [
        "baseline/object",
        "baseline/object@camera3",
        "replay/object@camera3",
    ]


def test_it_is_no_variant_of_the_adapter() -> None:
    assert variant(settings("eval.perturb=layout"), settings()) == ""


def test_plain_stands_before_perturbed_and_suites_keep_their_order() -> None:
    slugs = ["baseline/goal", "baseline/object@light2", "baseline/object", "baseline/object@camera1"]
    ordered = sorted(slugs, key=lambda slug: table_place(slug, ["baseline"]))
    assert ordered == ["baseline/object", "baseline/object@camera1", "baseline/object@light2", "baseline/goal"]


def test_a_bad_one_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean layout"):
        settings("eval.perturb=layuot:2")
