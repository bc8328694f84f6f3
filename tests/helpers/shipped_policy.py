"""The tiny base that comes with the project, as a policy without an adapter."""

from __future__ import annotations

import torch

from configs.choices import Role, Subset
from configs.phases import PhaseSpec, Segment
from data_pipeline.action_stats import STATISTICS_FILE, ActionStatistics
from training import action_tokenizer
from training.action_tokenizer import ACTION_TOKENIZER_FILE
from training.base_folder import TINY, locate_base
from training.card import AdapterCard, package_versions
from training.loaded_policy import LoadedPolicy
from training.lora_model import load_base, make_layout, tokenizer_digest
from training.shipped_base import SHIPPED

PHASE = PhaseSpec("baseline", (Segment(Role.ACTION, "action"),))


def load_shipped(subset: Subset) -> LoadedPolicy:
    """On the CPU, in float32."""
    base = locate_base(TINY, folder=SHIPPED)
    model, tokenizer = load_base(base.path, torch.float32)
    statistics = ActionStatistics.load(base.path / STATISTICS_FILE)
    actions = action_tokenizer.load(base.path / ACTION_TOKENIZER_FILE)
    card = AdapterCard(
        base=base.name,
        base_digest=base.digest,
        phase=PHASE,
        subset=subset,
        horizon=actions.horizon,
        image_size=112,
        image_frame="rot180",
        system_prompt=False,
        num_flow_codes=0,
        flow_tokenizer="",
        action_tokenizer=actions.digest,
        text_tokenizer=tokenizer_digest(tokenizer),
        statistics=statistics.dataset,
        steps=0,
        versions=package_versions(),
    )
    layout = make_layout(PHASE, tokenizer, actions, 0, card.image_size, card.system_prompt)
    return LoadedPolicy(model, tokenizer, actions, statistics, card, layout)
