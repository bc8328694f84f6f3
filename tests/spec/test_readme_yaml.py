"""The YAML block of the user's README, pasted into a phase file, acts, every value of it."""

import pytest

from configs.checks import ConfigError
from configs.choices import Role
from experiment.compose import compose, find_phase

BLOCK = """
# LoRA 配置
lora:
  rank: 16          # LoRA 秩
  alpha: 32         # LoRA alpha
  dropout: 0.05     # LoRA dropout

# 优化器配置
optimizer:
  learning_rate: 5.0e-5
  warmup_steps: 1000

# Reasoning Dropout 配置 (Phase B/C)
reasoning_dropout:
  prob: 0.5              # No CoT 概率
  cot_loss_weight: 0.5   # CoT 辅助损失权重

# 训练配置
per_device_batch_size: 16
max_train_steps: 100000
mixed_precision: "bf16"
"""
PHASE = """
phase:
  segments:
    - {role: text, source: reasoning, loss_weight: "${reasoning_dropout.cot_loss_weight}"}
    - {role: flow, source: flow, loss_weight: "${reasoning_dropout.cot_loss_weight}"}
    - {role: action, source: action, loss_weight: 1.0}
"""


def composed(tmp_path, block, overrides=("preset=nora_3b",)):
    path = tmp_path / "mine.yaml"
    path.write_text(block + PHASE)
    return compose(path, list(overrides))


def test_the_block_is_the_default(tmp_path):
    mine = composed(tmp_path, BLOCK)
    ours = compose(find_phase("text_flow_cot"), ["preset=nora_3b"])
    assert mine.phase.name == "mine"
    assert mine.phase.segments == ours.phase.segments
    assert (mine.lora, mine.optimizer, mine.reasoning_dropout) == (ours.lora, ours.optimizer, ours.reasoning_dropout)
    assert (mine.per_device_batch_size, mine.max_train_steps, mine.mixed_precision) == (16, 100_000, "bf16")


@pytest.mark.parametrize(
    ("old", "new", "read", "value"),
    [
        ("rank: 16", "rank: 8", lambda c: c.lora.rank, 8),
        ("alpha: 32", "alpha: 64", lambda c: c.lora.alpha, 64),
        ("dropout: 0.05", "dropout: 0.1", lambda c: c.lora.dropout, 0.1),
        ("5.0e-5", "1e-4", lambda c: c.optimizer.learning_rate, 1e-4),
        ("warmup_steps: 1000", "warmup_steps: 10", lambda c: c.optimizer.warmup_steps, 10),
        ("prob: 0.5 ", "prob: 0.3 ", lambda c: c.reasoning_dropout.prob, 0.3),
        (
            "cot_loss_weight: 0.5",
            "cot_loss_weight: 0.25",
            lambda c: c.phase.segments[1].loss_weight,
            0.25,
        ),
        ("per_device_batch_size: 16", "per_device_batch_size: 4", lambda c: c.per_device_batch_size, 4),
        ("100000", "7", lambda c: c.max_train_steps, 7),
        ('"bf16"', '"no"', lambda c: c.mixed_precision, "no"),
    ],
)
def test_every_value_acts(tmp_path, old, new, read, value):
    assert old in BLOCK
    assert read(composed(tmp_path, BLOCK.replace(old, new))) == value


def test_a_typing_error_in_it_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"lora\.rnak.*lora\.rank"):
        composed(tmp_path, BLOCK.replace("rank: 16", "rnak: 16"))


def test_preset_wins_over_the_file_and_the_command_line_over_both(tmp_path):
    assert composed(tmp_path, BLOCK, ["preset=tiny"]).max_train_steps == 120
    assert composed(tmp_path, BLOCK, ["preset=tiny", "max_train_steps=5"]).max_train_steps == 5


def test_one_weight_for_all_reasoning():
    spec = compose(find_phase("text_flow_cot"), ["preset=tiny", "reasoning_dropout.cot_loss_weight=0.2"]).phase
    assert {s.loss_weight for s in spec.segments if s.role is not Role.ACTION} == {0.2}
