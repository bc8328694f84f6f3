"""The language-model annotator as a part of a study: may it run, what it will cost, what it did."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Collection, Iterable
from pathlib import Path

from configs.checks import check
from configs.choices import Subset
from configs.data import AnnotatorConfig, TaskSelection
from configs.schema import ExperimentConfig
from configs.slices import RewordSlice
from data_pipeline.llm_money import MESSAGE_TOKENS, OPENAI_URL, SCHEMA_TOKENS, Forecast, Ledger, Price, price_of
from experiment.secret import Secret
from experiment.stages import StageNode
from experiment.store import Store

STAGE = "reword"
TYPICAL_DEMOS_PER_TASK = 50  # of LIBERO's files, for estimates before they are read
TYPICAL = {  # bytes of a question and tokens of room for its answer: means over the golden demonstrations
    Subset.SPATIAL: (2800, 880),
    Subset.OBJECT: (2500, 790),
    Subset.GOAL: (3000, 970),
    Subset.LONG: (4050, 1500),
}
TYPICAL_ELSEWHERE = (4050, 1500)


def secret_of(values: Namespace, config: AnnotatorConfig) -> Secret:
    """The key by flag, else by environment where the language model is asked for; never for the rules."""
    if config.kind == "rules":
        return Secret(config.api_key_env)
    return Secret(config.api_key_env, getattr(values, "api_key", "") or os.environ.get(config.api_key_env, ""))


def permission(values: Namespace, config: ExperimentConfig) -> str:
    """What will be asked, in words. Raises ConfigError where the key or the price is missing."""
    annotator = config.annotator
    price, key = price_of(annotator), secret_of(values, annotator).value
    check(
        key.isascii() and key.isprintable() and " " not in key, "the API key has spaces, line breaks or odd characters"
    )
    check(
        values.dry_run or bool(key) or annotator.base_url.rstrip("/") != OPENAI_URL,
        f"annotator=llm needs a key: --llm-api-key KEY, or the environment variable {annotator.api_key_env}",
    )
    return (
        f"reasoning: the rules' words, reworded by {annotator.model} at {annotator.base_url}; ${price.prompt:g} and "
        f"${price.completion:g} per million tokens in and out, never above --max-usd {annotator.max_usd:g} in this "
        "output directory"
    )


def expectations(store: Store, nodes: Iterable[StageNode], finished: Collection[str]) -> list[str]:
    """What the stages that are to run will cost: from the very prompts where the rules have written, else estimated."""
    return [expectation(store, node) for node in nodes if node.stage == STAGE and node.key not in finished]


def expectations_after(store: Store, finished: StageNode, nodes: Iterable[StageNode]) -> list[str]:
    """What the stages that were waiting for `finished` will cost: known now, before they start."""
    waiting = (n for n in nodes if n.stage == STAGE and finished.key in {needed.key for needed in n.inputs.values()})
    return [expectation(store, node) for node in waiting]


def expectation(store: Store, node: StageNode) -> str:
    """The cost of one stage, in words."""
    config = node.spec.build_config()
    assert isinstance(config, RewordSlice)
    rules = node.inputs["annotate"]
    path = store.entry(rules.stage, rules.key) / "annotations.json"
    spent = Ledger(Path(config.folder) / "spent.jsonl").spent()
    if not path.is_file():
        return (
            f"LLM calls, {node.label}: an estimate from typical questions, because the rules have not written yet (the "
            f"same command without annotator=llm and without a key writes them, and this one counts): "
            f"{_estimate(config, demos_behind(node)).text(spent, config.max_usd)}"
        )
    from data_pipeline.llm_annotator import demos_of, forecast  # pydantic

    found = forecast(config, demos_of(json.loads(path.read_text(encoding="utf-8"))))
    return f"LLM calls, {node.label}: {found.text(spent, config.max_usd)}"


def report(store: Store, node: StageNode) -> list[str]:
    """What a finished stage says of its quality."""
    from data_pipeline.llm_quality import quality_lines

    path = store.entry(node.stage, node.key) / "quality.json"
    return [f"{node.label}:", *quality_lines(json.loads(path.read_text(encoding="utf-8"))), f"more in {path}"]


def demos_behind(node: StageNode) -> int:
    """Demonstrations that will be annotated, at most: as many as are made, or as LIBERO's files usually hold."""
    while "demos" not in node.inputs and node.inputs:
        node = next(iter(node.inputs.values()))
    made = node.inputs.get("demos", node).spec.config
    return len(made.get("tasks", TaskSelection().object)) * int(made.get("episodes_per_task", TYPICAL_DEMOS_PER_TASK))


def _estimate(config: RewordSlice, demos: int) -> Forecast:
    length, room = TYPICAL.get(config.subset, TYPICAL_ELSEWHERE)
    prompt = SCHEMA_TOKENS + 2 * MESSAGE_TOKENS + length
    price = Price(config.usd_per_mtok_in, config.usd_per_mtok_out)
    return Forecast.of(price, [(prompt, room + config.thinking_tokens)] * demos)
