"""`nora-ecot merge`: an adapter and its base as one model folder, written only where it says what the two say."""

from __future__ import annotations

import itertools
import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.checks import check, in_range
from configs.choices import Weights
from data_pipeline.contract import EnvironmentProblem, EpisodeId
from experiment.files import environment_errors, sync_tree
from experiment.flags import Parser
from experiment.inspecting import settings_of, subset_of
from experiment.store import Store
from experiment.views import markers
from training.base_folder import TINY, BaseFolder, folder_digest
from training.card import AdapterCard, load_card
from training.shipped_base import BASE_FOLDER, SHIPPED

if TYPE_CHECKING:
    import torch

    from evaluation.merging import Parity, Shown

EXIT_FOUND = 1
STEPS = 8
DTYPES = ("float32", "bfloat16")


def main(argv: Sequence[str]) -> int:
    """Merge, compare, publish. Raises ConfigError, EnvironmentProblem."""
    parser = Parser(
        prog="nora-ecot merge",
        description="an adapter and its base as one model folder. Further settings: key=value, trainer.device=cpu.",
        allow_abbrev=False,
    )
    parser.flag("lora_path", required=True, help="the adapter, e.g. outputs/<phase>/<subset>/checkpoint-final")
    parser.flag("target", required=True, help="the folder to write; must not exist")
    parser.flag("base", help="a folder of its base; default: the one on its card")
    parser.flag("data", help="demonstrations (*.hdf5) to compare on; default: the adapter's own held-out ones")
    parser.flag("steps", type=int, default=STEPS, help=f"of demonstrations that are compared; default {STEPS}")
    parser.flag("dtype", choices=DTYPES, help="of the weights; default: the base's own")
    parser.flag("output_dir", default="./outputs", help="the store")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    values = parser.parse(argv)
    in_range("--steps", values.steps, 1)
    checkpoint, target = Path(values.lora_path), Path(values.target)
    card = load_card(checkpoint)
    whole = f"{checkpoint} is a whole model already ({card.weights.value}); there is nothing to merge"
    check(card.weights is Weights.ADAPTER, whole)
    check(not target.exists(), f"--target {target} exists; give another, or remove it")
    return _merge(values, checkpoint, card, target)


def _merge(values: Namespace, checkpoint: Path, card: AdapterCard, target: Path) -> int:
    import torch

    from evaluation.merging import TOLERANCE, compare
    from evaluation.policy import placement
    from training.loaded_policy import find_base, load_attached, load_checkpoint
    from training.lora_model import Companions
    from training.whole_model import save_whole

    device, _ = placement(settings_of(values).trainer)
    store = Store(Path(values.output_dir).absolute() / ".store")
    base = find_base(card, values.base or _known_base(store, card))
    shown = _shown(store, values, checkpoint, card)
    dtype: Any = getattr(torch, values.dtype or _own_dtype(base))
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with environment_errors():
            merged = load_checkpoint(checkpoint, base.path, device, dtype)
            companions = Companions(
                merged.tokenizer, merged.action_tokenizer, merged.statistics, replace(card, weights=Weights.MERGED)
            )
            save_whole(aside, merged.model, dtype, base.path, companions)
            del merged
        written = load_checkpoint(aside, None, device, dtype)
        print(f"{checkpoint}: {card.phase.name}/{card.subset.value}, into {base.name}, {dtype}")
        parity = compare(written, load_attached(checkpoint, base.path, device, dtype), shown)
        print(f"merged, beside the adapter on its base: {parity} (allowed {TOLERANCE[dtype]})")
        if card.base_bits != 16:
            trained_on = load_attached(checkpoint, base.path, device, dtype, card.base_bits)
            print(f"beside the {card.base_bits}-bit base it was trained on: {compare(written, trained_on, shown)}")
        if not parity.within(TOLERANCE[dtype]):
            print(f"not written: {_remedy(dtype, parity)}")
            return EXIT_FOUND
        with environment_errors():
            sync_tree(aside)
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    evaluate = f"python scripts/evaluate.py --model_type {card.phase.name} --libero_subset {card.subset.value}"
    print(f"written: {target}; {evaluate} --lora_path {target}")
    return 0


def _remedy(dtype: torch.dtype, parity: Parity) -> str:
    rounding = "bfloat16" in str(dtype) and parity.equal < parity.tokens
    return "try --dtype float32" if rounding else "these weights would not do what the adapter does"


def _own_dtype(base: BaseFolder) -> str:
    from transformers import AutoConfig

    dtype = str(AutoConfig.from_pretrained(base.path, local_files_only=True).dtype).removeprefix("torch.")
    return dtype if dtype in DTYPES else DTYPES[0]


def _known_base(store: Store, card: AdapterCard) -> Path | None:
    """The folder of a tiny base, None for another. Raises EnvironmentProblem where it is not here."""
    if not card.base.startswith(f"{TINY}:"):
        return None
    made_here = (store.entry("base", manifest.key) / BASE_FOLDER for _, manifest in store.manifests("base"))
    found = next((f for f in (SHIPPED, *made_here) if folder_digest(f) == card.base_digest), None)
    if found is None:
        raise EnvironmentProblem(f"{card.base} is not in {store.root}; give its folder as --base, or its --output_dir")
    return found


# ------------------------------------------------------------------ what both are asked


def _shown(store: Store, values: Namespace, checkpoint: Path, card: AdapterCard) -> list[Shown]:
    """Steps spread over the demonstrations. Raises ConfigError where there are none."""
    from data_pipeline.contract import AGENTVIEW
    from data_pipeline.raw_loader import Hdf5Source
    from evaluation.merging import Shown

    folder, held_out = _given(values, card) if values.data else _held_out(store, checkpoint)
    source = Hdf5Source(folder, card.subset)
    listed = held_out or source.list()
    check(bool(listed), f"{folder} has no demonstrations of {card.subset.value}")
    shown: list[Shown] = []
    for number in range(values.steps):
        episode = source.open(listed[number % len(listed)])
        step = number * (episode.num_steps - 1) // values.steps
        image = next(itertools.islice(episode.frames(AGENTVIEW), step, None))
        shown.append(Shown(image, episode.instruction))
    source.close()
    return shown


def _given(values: Namespace, card: AdapterCard) -> tuple[Path, Sequence[EpisodeId]]:
    folder = Path(values.data)
    found = subset_of(folder)
    check(found is card.subset, f"--data {folder} has {found.value}, the adapter was trained on {card.subset.value}")
    return folder, ()


def _held_out(store: Store, checkpoint: Path) -> tuple[Path, Sequence[EpisodeId]]:
    """Of the study that trained it: its regenerated demonstrations, and which of them training did not see."""
    from data_pipeline.data_splitter import SPLIT_FILE, load_split

    published = (marker for folder, marker in markers(store) if folder == checkpoint.resolve().parent)
    made = next((store.whole(m.stage, m.key) for m in published if m.stage == "train"), None)
    check(
        made is not None, f"{checkpoint} was not trained in {store.root.parent}; give demonstrations as --data FOLDER"
    )
    assert made is not None
    regenerated, split = (store.entry(made.inputs[n]["stage"], made.inputs[n]["key"]) for n in ("regenerate", "split"))
    return regenerated, load_split(split / SPLIT_FILE).test
