"""A checkpoint that is a whole model: trained in full, or an adapter merged in. An ordinary model folder.

Beside what every checkpoint has it holds model.safetensors, in the published key names, config.json and its base's
processor files, so that `from_pretrained` of transformers and other programs take it as they take the base.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from training.lora_model import Companions
from training.sharding import whole

WEIGHTS = "model.safetensors"
_HEAD = "lm_head.weight"
_FROM_BASE = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)


def tune_in_full(model: Any) -> Any:
    """Let the language model train, embedding and head with it, and the vision tower stay. Returns the model."""
    model.requires_grad_()
    model.model.visual.requires_grad_(requires_grad=False)
    return model


def save_whole(folder: Path, model: Any, dtype: torch.dtype, base: Path, companions: Companions) -> None:
    """Write a bare model as a checkpoint folder of that dtype; its bytes depend on the arguments alone.

    base: the folder that its processor files come from. Of several processes the first writes; where they share the
    model, each must call this.
    """
    state = {name: whole(value).detach().to("cpu", dtype) for name, value in model.state_dict().items()}
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FROM_BASE:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    if model.config.tie_word_embeddings:
        del state[_HEAD]
    model.save_pretrained(folder, state_dict=state, max_shard_size="1TB")
    (folder / WEIGHTS).chmod(0o644)  # safetensors leaves it to the owner alone
    config = type(model.config).from_dict(model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")})
    config.save_pretrained(folder)  # again: it has the dtype of the weights in memory
    companions.save(folder)
