"""How many steps of a chunk are executed is a matter of evaluation: no adapter is trained again for it."""

from pathlib import Path

from configs.choices import STUDY, Subset
from experiment import compose, settings
from experiment.places import Places
from experiment.plan import Run, evaluate_node, train_node
from experiment.resolve import find_source, resolve
from tests.experiment.test_workers import parse

ARGV = ["--model_type", "baseline", "--libero_subset", "object", "--lora_path", "x"]


def nodes(tmp_path: Path, *argv: str):
    values = parse("evaluate", *ARGV, *argv, "preset=tiny", "env.assets=builtin")
    preset, _, overrides = settings.read_overrides(values)
    config = compose.compose(compose.find_phase("baseline"), [f"preset={preset}", *overrides])
    resolved = resolve(config, tuple(STUDY), tmp_path, find_source)
    run = Run(resolved.config, Subset.OBJECT, resolved.sources)
    trained = train_node(run, Places(tmp_path, tmp_path))
    return trained, evaluate_node(run, trained, trained.inputs["base"])


def test_execute_changes_the_evaluation_and_no_adapter(tmp_path: Path) -> None:
    trained, evaluated = nodes(tmp_path)
    again, other = nodes(tmp_path, "--execute", "2")
    assert evaluated.spec.config["execute"] == 8
    assert other.spec.config["execute"] == 2
    assert again.key == trained.key
    assert again.inputs["base"].key == trained.inputs["base"].key
    assert other.key != evaluated.key
