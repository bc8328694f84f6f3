"""Qwen's own vocabulary from qwen.tiktoken: merges, and with the real file the ids that NORA's checkpoint relies on."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from configs.checks import ConfigError
from tests.data_pipeline.test_annotator_golden import annotated
from tests.helpers.qwen import qwen_file
from training.qwen_vocabulary import CONTROL_TOKENS, QwenVocabulary
from training.reasoning_text import render_reasoning

DEFAULT_LIMIT = 512  # eval.max_new_tokens


@pytest.fixture(scope="module")
def qwen() -> QwenVocabulary:
    return QwenVocabulary.read(qwen_file())


def written(path: Path, tokens: list[bytes]) -> Path:
    path.write_bytes(b"".join(base64.b64encode(t) + f" {rank}\n".encode() for rank, t in enumerate(tokens)))
    return path


def test_pairs_of_the_lowest_rank_are_merged_first(tmp_path: Path) -> None:
    tokens = [*(bytes([byte]) for byte in range(256)), b"bc", b"ab", b"abc", b" a"]
    found = QwenVocabulary.read(written(tmp_path / "q.tiktoken", tokens))
    assert found.encode("abc") == [258], "bc, then a and bc"
    assert found.encode("ab") == [257]
    assert found.first_added_id == 260 + CONTROL_TOKENS


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("not a vocabulary\n")
    with pytest.raises(ConfigError, match="BASE64 RANK"):
        QwenVocabulary.read(tmp_path / "x")
    with pytest.raises(ConfigError, match="pip download --no-deps dashscope"):
        QwenVocabulary.read(tmp_path / "missing")


def test_the_first_action_token_is_noras(qwen: QwenVocabulary) -> None:
    assert qwen.first_added_id == 151665


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("You are a helpful assistant.", [2610, 525, 264, 10950, 17847, 13]),
        ("Hello", [9707]),
        ("user\n", [872, 198]),
        ("hello world", [14990, 1879]),
    ],
)
def test_texts_have_the_ids_that_qwen_publishes(qwen: QwenVocabulary, text: str, ids: list[int]) -> None:
    assert qwen.encode(text) == ids


def test_no_chain_of_thought_is_longer_than_the_limit(qwen: QwenVocabulary) -> None:
    texts = [render_reasoning(step) for _, said in annotated() for step in said]
    assert max(len(qwen.encode(text)) for text in texts) < DEFAULT_LIMIT
