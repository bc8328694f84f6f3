"""What a checkpoint folder says of itself against what it holds and what a run would do with it."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
from data_pipeline.image_frame import ImageFrame
from evaluation.episodes import Protocol
from evaluation.interface import Interface
from evaluation.oracle_faults import Fault, Part
from training import action_tokenizer
from training.action_tokenizer import ACTION_TOKENIZER_FILE
from training.card import AdapterCard, load_card

DIGITS = 12  # of a digest, in messages


def load_interface(checkpoint: Path) -> tuple[Interface, AdapterCard]:
    """The conversions of a checkpoint folder, as its files are, and its card. No weights are read."""
    card = load_card(checkpoint)
    tokenizer = action_tokenizer.load(checkpoint / ACTION_TOKENIZER_FILE)
    statistics = ActionStatistics.load(checkpoint / STATISTICS_FILE)
    return Interface(tokenizer, statistics, card.image_size), card


def card_faults(card: AdapterCard, deployed: Interface, taught: Interface) -> list[Fault]:
    """Files that are not those the adapter was trained with."""
    found: list[Fault] = []
    digest, used = deployed.tokenizer.digest, card.action_tokenizer
    if digest != used:
        says = f"the action tokenizer beside the weights ({digest[:DIGITS]}) is not the one of training"
        found.append(Fault(Part.TOKENIZER, f"{says} ({used[:DIGITS]}, on the card)"))
    if card.horizon != deployed.tokenizer.horizon:
        says = f"the adapter predicts {card.horizon} steps (card), its action tokenizer spells"
        found.append(Fault(Part.CHUNK_LENGTH, f"{says} {deployed.tokenizer.horizon}"))
    wanted, name = taught.statistics.dataset, deployed.statistics.dataset
    if name != wanted:
        found.append(Fault(Part.STATISTICS, f"the statistics beside the weights are those of {name}, not {wanted}"))
    seen = ImageFrame.ROT180.name.lower()
    if card.image_frame != seen:
        says = f"the adapter was trained on frames {card.image_frame!r} (card), and evaluation shows {seen!r}"
        found.append(Fault(Part.FRAME, says))
    return found


def length_faults(deployed: Interface, horizon: int, protocol: Protocol) -> list[Fault]:
    """Chunks of another length than the run's action.horizon, or shorter than what the protocol executes of them."""
    spelled, found = deployed.tokenizer.horizon, list[Fault]()
    if horizon != spelled:
        says = f"action.horizon={horizon}, but the deployed tokenizer spells chunks of {spelled} steps"
        found.append(Fault(Part.CHUNK_LENGTH, says))
    if protocol.execute > spelled:
        says = f"the protocol {protocol.name} executes {protocol.execute} steps of chunks of {spelled}"
        fixed = f"it always does; use eval.protocol=standard, or action.horizon={protocol.execute} at least"
        asked = f"allowed for action.execute: at most {spelled}"
        found.append(Fault(Part.CHUNK_LENGTH, f"{says}; {fixed if protocol.name == 'nora' else asked}"))
    return found
