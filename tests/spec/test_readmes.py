"""The two READMEs give the same commands and the same configuration; only words differ."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(name):
    """(language, text without comments) of every fenced block."""
    found = BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))
    return [(kind, re.sub(r"\s*#[^\n]*", "", text).strip()) for _, kind, text in found]


def test_same_blocks_in_both_languages():
    english, chinese = blocks("README.md"), blocks("README.zh-CN.md")
    assert english
    assert english == chinese


def test_every_script_named_exists_and_is_named():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"scripts/(\w+\.py)", text))
    assert named == {p.name for p in (ROOT / "scripts").glob("*.py")}
