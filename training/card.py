"""A checkpoint's card: everything evaluation needs besides the weights and the statistics, as adapter_card.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError, safe_open

from configs.building import added, build, canonical
from configs.choices import Subset, Weights
from configs.phases import PhaseSpec
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.whole_files import write_text

CARD_FILE = "adapter_card.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy")


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter was trained as."""

    base: str  # name of the base model: a hub id with its revision, or tiny:/local: and its digest
    base_digest: str  # of the base folder's contents: see base_folder.folder_digest
    phase: PhaseSpec
    subset: Subset
    horizon: int  # steps per chunk
    image_size: int  # pixels
    image_frame: str  # of the policy's image: rot180
    system_prompt: bool
    num_flow_codes: int  # 0 where the phase has no flow
    flow_tokenizer: str  # digest of the tokenizer that made the flow codes; "" without flow
    action_tokenizer: str  # digest
    text_tokenizer: str  # digest of tokenizer.json beside the card
    statistics: str  # data set of dataset_statistics.json beside the card
    steps: int
    versions: tuple[tuple[str, str], ...]  # (package, version)
    weights: Weights = added(Weights.ADAPTER)
    base_bits: int = added(16)  # of the adapted layers of the base, while an adapter trained


def package_versions() -> tuple[tuple[str, str], ...]:
    """Versions of the packages that make the weights."""
    return tuple((name, version(name)) for name in _PACKAGES)


def save_card(folder: Path, card: AdapterCard) -> None:
    """Write adapter_card.json atomically; an `added` field only where it says something."""
    values = canonical(card, key_only=False)
    said = {name: values[name] for name in canonical(card)}
    write_text(folder / CARD_FILE, json.dumps(said, indent=1, sort_keys=True) + "\n")


def load_card(folder: Path) -> AdapterCard:
    """Inverse of `save_card`. Raises EnvironmentProblem where the folder is no adapter of this project, or damaged."""
    path = folder / CARD_FILE
    if not path.is_file():
        raise EnvironmentProblem(
            f"{folder} has no {CARD_FILE}; expected a checkpoint of this project, "
            "e.g. outputs/baseline/object/checkpoint-final. Train one with scripts/train_baseline.py"
        )
    try:
        return build(AdapterCard, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # no UTF-8, no JSON, or keys and values that are no card's
        raise EnvironmentProblem(f"{path} cannot be read ({error}); copy the whole checkpoint folder again") from error


def check_weights(folder: Path, card: AdapterCard) -> None:
    """Raise EnvironmentProblem, with the command that makes them again, where weights are missing or cut off."""
    adapter = card.weights is Weights.ADAPTER
    again = f"nora-ecot train --phase {card.phase.name} --subset {card.subset.value}"
    if card.weights is Weights.MERGED:
        again = f"nora-ecot merge --target {folder} --lora_path ..."
    for path in [folder / ADAPTER_WEIGHTS] if adapter else sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "numpy"):  # reads the header, and compares the file's length with it
                pass
        except (OSError, SafetensorError) as error:
            raise EnvironmentProblem(
                f"{path} is {'damaged' if path.is_file() else 'missing'} ({error}); copy the whole checkpoint folder "
                f"again, or make it again: `{again}`, with the settings it was made with"
            ) from error
