"""Phase baseline writes what NORA's own training reads, with the real vocabulary and the published chat template.

The reference is restated from declare-lab/nora, training/train.py (`process_example`, `collate_fn`) and
training/datasets/datasets.py (the instruction in lower case), and from physical-intelligence/fast's processor.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_vl_utils import process_vision_info
from scipy.fft import dct
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from configs.choices import Role, Subset
from data_pipeline.contract import EpisodeId, Sample
from tests.helpers.forward_inputs import patchify
from tests.helpers.qwen import qwen_tokenizer
from tests.helpers.tiny_adapter import BASELINE, smooth_chunks, write_hub_fast
from training.action_tokenizer import from_hub_files
from training.batch import Batch, collate, image_grid
from training.layout import IGNORE, ROLES, Layout, flatten, inference_prefix, spans
from training.lora_model import make_layout

ACTION_TOKEN_MIN, ACTION_TOKEN_MAX = 151665, 153712  # as train.py has them
IM_END, NEWLINE = 151645, 198
SCALE, MIN_TOKEN, CODES, HORIZON = 10, -354, 2048, 5  # of FAST+ and NORA-Long
INSTRUCTIONS = ("Pick up the Alphabet Soup, and place it in the basket", "Turn on the stove; put the moka pot on it")
QWEN_CHAT_TEMPLATE = (  # chat_template.json of Qwen2.5-VL-3B-Instruct, to the letter
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in "
    "content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}"
    "Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == "
    "'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video "
    "{{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Nora:
    """Its processor and its action tokenizer's files, and our layout on the same."""

    processor: Any
    fast: Path
    layout: Layout


@pytest.fixture(scope="module")
def nora(tmp_path_factory: pytest.TempPathFactory) -> Nora:
    fast = write_hub_fast(tmp_path_factory.mktemp("fast"), SCALE, MIN_TOKEN, CODES)
    actions = from_hub_files(str(fast), HORIZON)
    assert actions.num_codes == CODES
    tokenizer = qwen_tokenizer(CODES)
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=QWEN_CHAT_TEMPLATE
    )
    return Nora(processor, fast, make_layout(BASELINE, tokenizer, actions, 0, 224, system_prompt=True))


def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    chunks = smooth_chunks(2, HORIZON, seed=3)
    rows = zip(INSTRUCTIONS, images, chunks, strict=True)
    return [Sample(EpisodeId(Subset.OBJECT, 0, n), 0, i, text, {"action": c}) for n, (text, i, c) in enumerate(rows)]


# ------------------------------------------------------------------ the reference


def reference_fast(folder: Path, chunk: np.ndarray) -> list[int]:
    """FAST's processor: DCT, scaled and rounded, shifted by min_token, written as characters, byte-pair encoded."""
    coefficients = np.around(dct(chunk, axis=0, norm="ortho") * SCALE)
    text = "".join(map(chr, np.maximum(coefficients.flatten() - MIN_TOKEN, 0).astype(int)))
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


def reference_batch(nora: Nora, written: list[Sample]) -> Any:
    """train.py's collate_fn on process_example's messages."""
    messages = []
    for sample in written:
        action = "".join(f"<robot_action_{code}>" for code in reference_fast(nora.fast, sample.parts["action"]))
        image = {"type": "image", "image": Image.fromarray(sample.image)}
        text = {"type": "text", "text": sample.instruction.lower()}
        user = {"role": "user", "content": [image, text]}
        messages.append([user, {"role": "assistant", "content": [{"type": "text", "text": action}]}])
    text = nora.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    images, videos = process_vision_info(messages)
    batch = nora.processor(text=text, images=images, videos=videos, padding=True, return_tensors="pt")
    labels = batch["input_ids"].clone()
    for row in labels:
        acts = (row >= ACTION_TOKEN_MIN) & (row <= ACTION_TOKEN_MAX)
        row[: int(acts.nonzero()[0])] = IGNORE
    labels[labels == nora.processor.tokenizer.pad_token_id] = IGNORE
    batch["labels"] = labels
    return batch


def our_batch(nora: Nora, written: list[Sample]) -> Batch:
    sequences = [flatten(spans(nora.layout, sample)) for sample in written]
    return collate(sequences, np.stack([sample.image for sample in written]), nora.layout)


# ------------------------------------------------------------------ parity


def test_ids_are_noras(nora: Nora) -> None:
    ids = nora.processor.tokenizer.convert_tokens_to_ids
    assert ids("<robot_action_0>") == nora.layout.vocabulary.action_start == ACTION_TOKEN_MIN
    assert ids("<robot_action_2047>") == ACTION_TOKEN_MAX
    assert ids("<|im_end|>") == nora.layout.vocabulary.end == IM_END
    assert len(nora.processor.tokenizer) == ACTION_TOKEN_MAX + 1
    assert nora.layout.vocabulary.image == 151655


def test_a_batch_is_noras_but_for_the_line_break_after_the_end(nora: Nora) -> None:
    """Ids and labels, token by token. The template's last line break is a target of NORA's; it says nothing."""
    written = samples()
    theirs, ours = reference_batch(nora, written), our_batch(nora, written)
    for row in range(len(written)):
        shown = theirs["attention_mask"][row].bool()
        real = ours.real[row]
        ids, labels = theirs["input_ids"][row][shown].tolist(), theirs["labels"][row][shown].tolist()
        assert ids[-2:] == labels[-2:] == [IM_END, NEWLINE]
        assert ours.input_ids[row][real].tolist() == ids[:-1]
        assert ours.labels[row][real].tolist() == labels[:-1]
        assert set(ours.labels[row][~real].tolist()) <= {IGNORE}


def test_targets_are_the_action_and_the_end_alone(nora: Nora) -> None:
    for sample in samples():
        sequence = flatten(spans(nora.layout, sample))
        *codes, end = sequence.labels[sequence.labels != IGNORE].tolist()
        assert end == IM_END
        assert [code - ACTION_TOKEN_MIN for code in codes] == reference_fast(nora.fast, sample.parts["action"])
        assert (sequence.weights == (sequence.labels != IGNORE)).all()
        assert set(sequence.roles[sequence.labels != IGNORE].tolist()) == {ROLES.index(Role.ACTION)}


def test_what_the_model_sees_is_noras(nora: Nora) -> None:
    """Patches bit for bit, where process_vision_info has nothing to resize; 64 visual tokens per image."""
    written = samples()
    theirs, ours = reference_batch(nora, written), our_batch(nora, written)
    assert torch.equal(patchify(ours.images), theirs["pixel_values"])
    assert torch.equal(image_grid(len(written), 224), theirs["image_grid_thw"])
    assert (ours.input_ids == nora.layout.vocabulary.image).sum(1).tolist() == [64, 64]


def test_the_inference_prompt_is_noras(nora: Nora) -> None:
    """inference/nora.py: the same messages without an answer, and the opening of the assistant's turn."""
    image = {"type": "image", "image": Image.fromarray(samples()[0].image)}
    text = {"type": "text", "text": INSTRUCTIONS[0].lower()}
    messages = [{"role": "user", "content": [image, text]}]
    prompt = nora.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images, _ = process_vision_info(messages)
    ids = nora.processor(text=[prompt], images=images, return_tensors="pt")["input_ids"][0].tolist()
    assert inference_prefix(nora.layout, INSTRUCTIONS[0]) == tuple(ids)


def test_fast_files_give_the_codes_of_the_reference(nora: Nora) -> None:
    actions = from_hub_files(str(nora.fast), HORIZON)
    values = json.loads((nora.fast / "processor_config.json").read_text())
    assert (values["scale"], values["min_token"], values["vocab_size"]) == (SCALE, MIN_TOKEN, CODES)
    for chunk in smooth_chunks(50, HORIZON, seed=8):
        assert actions.encode(chunk) == reference_fast(nora.fast, chunk)
