"""`nora-ecot doctor --base`: does the base that is configured hold what training and evaluation need? Exit 1 if not."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.checks import ConfigError, check
from configs.schema import ExperimentConfig
from experiment.flags import Parser
from experiment.inspecting import settings_of
from training.base_folder import SCRATCH, TINY, BaseFolder, locate_base
from training.shipped_base import SHIPPED, ShippedBase

if TYPE_CHECKING:
    from evaluation.base_check import Finding
    from training.action_tokenizer import FastTokenizer

EXIT_FOUND = 1


def main(argv: Sequence[str]) -> int:
    """Print what was measured. Raises ConfigError for what was typed, EnvironmentProblem for files that are missing."""
    parser = Parser(
        prog="nora-ecot doctor --base",
        description="the base as configured. Further settings: key=value, e.g. preset=tiny, model.base=FOLDER.",
        allow_abbrev=False,
    )
    parser.flag("base", action="store_true", help="this check")
    parser.flag("lora_path", help="also this checkpoint, on the base")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    values = parser.parse(argv)
    config = settings_of(values)
    base, good = _base(config), True
    try:
        for finding in _findings(values, config, base):
            print(f"{'ok' if finding.good else 'WRONG':<8}{finding.name:<13}{finding.says}", flush=True)
            good = good and finding.good
    except ConfigError as problem:
        print(f"{'WRONG':<8}{problem}")
        good = False
    return 0 if good else EXIT_FOUND


def _findings(values: Namespace, config: ExperimentConfig, base: BaseFolder) -> Iterator[Finding]:
    from evaluation.base_check import Finding, examine
    from evaluation.policy import placement
    from training.loaded_policy import load_checkpoint
    from training.lora_model import add_action_tokens, load_base, on_device

    yield Finding("base", good=True, says=f"{base.name}, digest {base.digest[:16]}, {base.path}")
    device, dtype = placement(config.trainer)
    if values.lora_path:
        loaded = load_checkpoint(Path(values.lora_path), base.path, device, dtype)
        card = loaded.card
        says = f"{card.phase.name}/{card.subset.value}, {card.weights.value} of {card.steps} steps, fits the base"
        yield Finding("checkpoint", good=True, says=says)
        system = card.system_prompt
        yield from examine(
            loaded.model, loaded.tokenizer, loaded.action_tokenizer, card.image_size, system_prompt=system
        )
        return
    model, tokenizer = load_base(base.path, dtype)
    actions = _actions(config, base)
    added = add_action_tokens(model, tokenizer, actions.num_codes, config.seed)
    if added:
        says = f"none in the tokenizer: training adds {len(added)}, as was done here"
        yield Finding("action tokens", good=True, says=says)
    yield from examine(
        on_device(model, device), tokenizer, actions, config.model.image_size, system_prompt=config.model.system_prompt
    )


def _base(config: ExperimentConfig) -> BaseFolder:
    model = config.model
    check(
        model.base != SCRATCH,
        f"model.base={SCRATCH} is trained by the study; give its folder, model.base=outputs/.store/base/<key>/base",
    )
    if model.base != TINY:
        return locate_base(model.base, model.revision)
    shipped = ShippedBase.read()
    shipped.verify()
    shipped.check_fits(config)
    return locate_base(TINY, folder=SHIPPED)


def _actions(config: ExperimentConfig, base: BaseFolder) -> FastTokenizer:
    """The action tokenizer that training would use."""
    from training.action_tokenizer import ACTION_TOKENIZER_FILE, from_hub_files, load

    if (base.path / ACTION_TOKENIZER_FILE).is_file():
        return load(base.path / ACTION_TOKENIZER_FILE)
    action = config.action
    check(action.tokenizer != "fit", "action.tokenizer=fit is fitted by training; give FAST+'s files, or a hub id")
    return from_hub_files(action.tokenizer, action.horizon)
