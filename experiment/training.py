"""Stage `train`, with what `training` does not import: the policy's decoding, and the decoder of flow tokens."""

from __future__ import annotations

from configs.slices import TrainSlice
from data_pipeline.contract import StageContext


def run_train(config: TrainSlice, context: StageContext) -> list[str]:
    """See `training.lora_trainer.run_train`. Flow tokens that came without their tokenizer have no decoder."""
    from evaluation.free_running import FreeRunning
    from flow_pipeline.vq_encoder import TOKENIZER_FILE, load_tokenizer
    from training import lora_trainer
    from training.processes import companions
    from training.validation import Instruments

    path = context.inputs["tokens"] / TOKENIZER_FILE if "tokens" in context.inputs else None
    decode = load_tokenizer(path).decode if path is not None and path.is_file() else None
    with companions(config.trainer, run_train, config, context):
        return lora_trainer.run_train(config, context, Instruments(FreeRunning, decode))
