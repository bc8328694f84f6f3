"""The reference recipe of fine-tuning Qwen2.5-VL with LoRA, in our own words: what bench_train.py compares with.

Per batch: chat messages with PIL images, the chat template, `process_vision_info`, the library's processor with padding
to the longest; labels from everything after the assistant's opening. Per step: the stock forward pass with the stock
loss (logits of every position, a mean over tokens), clipping, AdamW and a scheduler with their defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from qwen_vl_utils import process_vision_info
from torch import nn
from torch.utils.data import Dataset
from transformers import get_cosine_schedule_with_warmup

from training.dataset import TrainingData
from training.layout import IGNORE, Layout, draw_dropped
from training.reasoning_text import render_reasoning
from training.sampling import SamplingPlan, numbers_of_step

MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class ReferenceSample:
    """What a data set of this recipe yields."""

    image: Image.Image
    instruction: str
    answer: str


class ReferenceData(Dataset[list[ReferenceSample]]):
    """Item `step`: the samples of one batch, the same that our loop draws for that step."""

    def __init__(self, data: TrainingData, layout: Layout, plan: SamplingPlan, steps: int) -> None:
        self._data, self._layout, self._plan, self._steps = data, layout, plan, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> list[ReferenceSample]:
        chosen = numbers_of_step(step, self._plan.seed, self._plan.global_batch, len(self._data))
        return [self._read(epoch, number) for epoch, number in chosen]

    def _read(self, epoch: int, number: int) -> ReferenceSample:
        sample = self._data.sample(number)
        key = (self._plan.seed, epoch, *self._data.where(number))
        dropped = draw_dropped(self._plan.variant, self._plan.reasoning_dropout_prob, *key)
        words: list[str] = []
        for segment in self._layout.phase.segments[:-1]:
            value = sample.parts[segment.source]
            if dropped or value is None:
                continue
            flow = segment.source == "flow"
            words.append("FLOW: " + "".join(f"<flow_{c}>" for c in value) if flow else render_reasoning(value))
        lead = " ".join(words) + " ACTION: " if words else ""
        codes = self._layout.encode_actions(sample.parts["action"])
        answer = lead + "".join(f"<robot_action_{code}>" for code in codes)
        return ReferenceSample(Image.fromarray(sample.image), sample.instruction.lower(), answer)


class ReferenceCollator:
    """Samples -> the library's inputs, with labels."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._opening = processor.tokenizer("<|im_start|>assistant\n")["input_ids"]

    def __call__(self, samples: list[ReferenceSample]) -> dict[str, torch.Tensor]:
        """Tensors for `model(**inputs)`."""
        messages = [_messages(sample) for sample in samples]
        texts = [self._processor.apply_chat_template(m, tokenize=False).rstrip("\n") for m in messages]
        images = process_vision_info(messages)[0]
        inputs = self._processor(text=texts, images=images, padding=True, return_tensors="pt")
        labels = inputs["input_ids"].clone()
        for row, ids in enumerate(inputs["input_ids"]):
            labels[row, : int((ids == self._opening[0]).nonzero()[-1]) + len(self._opening)] = IGNORE
        labels[inputs["attention_mask"] == 0] = IGNORE
        return {**inputs, "labels": labels}


def _messages(sample: ReferenceSample) -> list[dict[str, Any]]:
    size = {"resized_height": sample.image.height, "resized_width": sample.image.width}
    question = [{"type": "image", "image": sample.image, **size}, {"type": "text", "text": sample.instruction}]
    answer = [{"type": "text", "text": sample.answer}]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


class ReferenceTrainer:
    """model: a PeftModel. accelerator: of our loop, for the device and the precision."""

    def __init__(self, model: Any, accelerator: Any, learning_rate: float, steps: int) -> None:
        self._model, self._accelerator = model, accelerator
        self._trainable: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trainable, lr=learning_rate, betas=(0.9, 0.95), weight_decay=1e-8)
        self._scheduler = get_cosine_schedule_with_warmup(self._optimizer, 1, steps)

    def step(self, inputs: dict[str, torch.Tensor]) -> float:
        """One update; the loss."""
        self._optimizer.zero_grad()
        with self._accelerator.autocast():
            loss = self._model(**{k: v.to(self._accelerator.device) for k, v in inputs.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trainable, MAX_GRAD_NORM)
        self._optimizer.step()
        self._scheduler.step()
        return float(loss)
