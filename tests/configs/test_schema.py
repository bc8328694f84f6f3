"""The configuration: types, ranges, the nearest name, what is part of a key, and the study file as it is written."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
import yaml

from configs import data, model, phases, schema
from configs.building import build, canonical, not_in_key
from configs.checks import ConfigError
from configs.choices import Component, Corruption, DropoutVariant, Mode, Role, Subset
from configs.data import CodebookConfig, DataConfig, EnvConfig, FlowConfig, TaskSelection
from configs.model import ActionConfig, LoraConfig, ModelConfig
from configs.phases import PhaseSpec, ReasoningDropout, Segment
from configs.schema import EvalConfig, ExperimentConfig
from configs.slices import DemosSlice, EvaluateSlice, RegenerateSlice, RewordSlice

PHASE: dict[str, Any] = {"name": "any", "segments": [{"role": "action", "source": "action"}]}

README_BLOCK = """
lora:
  rank: 8
  alpha: 64
  dropout: 0.1
optimizer:
  learning_rate: 1.0e-4
  warmup_steps: 7
reasoning_dropout:
  prob: 0.3
  cot_loss_weight: 0.25
per_device_batch_size: 4
max_train_steps: 12
mixed_precision: "bf16"
"""


@dataclass(frozen=True)
class Inner:
    number: float = 1.0
    workers: int = not_in_key(1)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    role: Role = Role.TEXT
    maybe: int | None = None


# ------------------------------------------------------------------ plain values -> dataclasses


def test_every_value_of_the_readmes_block_acts() -> None:
    config = build(ExperimentConfig, {"phase": PHASE, **yaml.safe_load(README_BLOCK)})
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (8, 64, 0.1)
    assert (config.optimizer.learning_rate, config.optimizer.warmup_steps) == (1e-4, 7)
    assert (config.reasoning_dropout.prob, config.reasoning_dropout.cot_loss_weight) == (0.3, 0.25)
    assert (config.per_device_batch_size, config.max_train_steps, config.mixed_precision) == (4, 12, "bf16")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loar": {}}, "unknown key loar; did you mean lora?"),
        ({"lora": {"rnak": 4}}, "unknown key lora.rnak; did you mean lora.rank?"),
        ({"lora": {"zzz": 4}}, "unknown key lora.zzz; allowed: rank, alpha, dropout"),
        ({"lora": {"rank": "16"}}, "lora.rank='16' must be of type int, not str"),
        ({"lora": {"rank": True}}, "lora.rank=True must be of type int, not bool"),
        ({"lora": {"rank": 1.5}}, "lora.rank=1.5 must be of type int, not float"),
        ({"lora": {"rank": 0}}, "lora.rank=0 is out of range; allowed: 1 to 1024"),
        ({"lora": 3}, "lora=3 must be a group of keys"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas=[0.9] must have 2 entries"),
        ({"optimizer": {"betas": 0.9}}, "optimizer.betas=0.9 must be a list"),
        ({"eval": {"modes": ["sleep"]}}, "eval.modes[0]='sleep'; allowed: no_think, think"),
        ({"env": {"look": "pretty"}}, "env.look='pretty'; allowed: official, fast, light"),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8'; allowed: bf16, no"),
        ({"phase": {"name": "x"}}, "missing key phase.segments"),
        ({"phase": {"name": "x", "segments": [{"role": "action"}]}}, "missing key phase.segments[0].source"),
        ({"data": {"tasks": {"goal": [1, 1]}}}, "data.tasks.goal=[1, 1]; allowed: increasing task numbers from 0 to 9"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(ExperimentConfig, {"phase": PHASE, **values})
    assert message in str(error.value)


def test_a_missing_phase_is_named() -> None:
    with pytest.raises(ConfigError, match="missing key phase"):
        build(ExperimentConfig, {})


def test_conversions() -> None:
    outer = build(Outer, {"inner": {"number": 3}, "pair": [1, 2], "names": ["a"], "role": "flow", "maybe": None})
    assert outer == Outer(Inner(3.0), (1.0, 2.0), ("a",), Role.FLOW, None)
    assert isinstance(outer.inner.number, float)
    assert all(isinstance(x, float) for x in outer.pair)
    assert build(Outer, {"inner": Inner(2.0), "maybe": 4}) == Outer(Inner(2.0), maybe=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EnvConfig(assets="nice"), "env.assets='nice'"),
        (lambda: EnvConfig(resolution=32), "env.resolution=32 is out of range"),
        (lambda: DataConfig(source="web"), "data.source='web'"),
        (lambda: DataConfig(test_fraction=0.6), "data.test_fraction=0.6"),
        (lambda: TaskSelection(spatial=()), r"data.tasks.spatial=\[\]"),
        (lambda: TaskSelection(long=(3, 10)), r"data.tasks.long=\[3, 10\]"),
        (lambda: ModelConfig(image_size=100), "model.image_size=100; allowed: multiples of 28"),
        (lambda: ActionConfig(horizon=4, execute=5), "action.execute=5 is out of range; allowed: 1 to 4"),
        (lambda: LoraConfig(dropout=1.0), "lora.dropout=1.0"),
        (lambda: EvalConfig(protocol="mine"), "eval.protocol='mine'"),
        (lambda: EvalConfig(sim_workers=0), "eval.sim_workers=0 is out of range; allowed: at least 1"),
        (lambda: EvalConfig(batch_rows=0), "eval.batch_rows=0 is out of range; allowed: at least 1"),
        (
            lambda: TaskSelection(ninety=(90,)),
            r"data.tasks.ninety=\[90\]; allowed: increasing task numbers from 0 to 89",
        ),
        (lambda: Segment(Role.TEXT, "reasoning", -1), "loss_weight=-1"),
        (lambda: PhaseSpec("x", (Segment(Role.TEXT, "reasoning"),)), "the last segment must have role 'action'"),
        (lambda: Segment(Role.FLOW, "flow", without=(Component.MOVE,)), "role 'flow' has no components"),
        (lambda: Segment(Role.FLOW, "flow", corrupt=Corruption.NOISY_BOXES), "role 'flow' has no components"),
        (lambda: Segment(Role.ACTION, "action", corrupt=Corruption.SHUFFLED), "the action is never corrupted"),
        (lambda: Segment(Role.TEXT, "reasoning", without=tuple(Component)), "names every component"),
        (lambda: ReasoningDropout(scheduled_stage=2), "needs reasoning_dropout.variant=stage"),
        (lambda: ReasoningDropout(variant=DropoutVariant.STAGE, scheduled_stage=8), "allowed: 0 to 7"),
        (lambda: PhaseSpec("x", ()), "the last segment must have role 'action'"),
        (lambda: FlowConfig(tokenizer="fsq", cells=16), r"flow.cells=16; allowed with flow.tokenizer=fsq: 4 .*8"),
        (lambda: FlowConfig(tokenizer="fsq", levels=7), "flow.levels=7 acts with flow.tokenizer=grid"),
        (lambda: FlowConfig(codebook=CodebookConfig(seed=1)), "flow.codebook.* acts with flow.tokenizer=fsq"),
        (lambda: CodebookConfig(levels=(8, 1)), r"flow.codebook.levels=\[8, 1\]"),
        (lambda: CodebookConfig(subsets=(Subset.NINETY,)), r"flow.codebook.subsets=\['90'\]; allowed: some of spatial"),
    ],
)
def test_ranges(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_more_flow_codes_than_a_base_from_scratch_has_rows_for_are_named_before_anything_runs() -> None:
    segments = (Segment(Role.FLOW, "flow"), Segment(Role.ACTION, "action"))
    tiny, fitted = ModelConfig(base="scratch", flow_rows=32), FlowConfig(tokenizer="fsq")
    with pytest.raises(ConfigError, match=r"513 codes here.*model\.flow_rows=513 \(now 32\)"):
        ExperimentConfig(PhaseSpec("x", segments), model=tiny, flow=fitted)
    ExperimentConfig(PhaseSpec("x", segments), model=tiny)
    ExperimentConfig(PhaseSpec("x", segments[1:]), model=tiny, flow=fitted)
    ExperimentConfig(PhaseSpec("x", segments), flow=fitted)


def test_sources_of_a_phase() -> None:
    segments = (Segment(Role.TEXT, "reasoning"), Segment(Role.FLOW, "flow"), Segment(Role.ACTION, "action"))
    assert PhaseSpec("x", segments).sources == ("reasoning", "flow")
    assert PhaseSpec("y", segments[-1:]).sources == ()


# ------------------------------------------------------------------ dataclasses -> plain values, keys


def test_canonical_leaves_out_what_cannot_change_a_result() -> None:
    few, many = (RegenerateSlice(Subset.GOAL, EnvConfig(), workers=workers) for workers in (1, 8))
    assert canonical(few) == canonical(many)
    assert "workers" not in canonical(few)
    assert canonical(few, key_only=False) != canonical(many, key_only=False)
    assert canonical(RegenerateSlice(Subset.LONG, EnvConfig())) != canonical(few)


def test_a_field_that_came_later_is_part_of_the_key_only_where_it_is_used() -> None:
    assert set(canonical(Segment(Role.TEXT, "reasoning"))) == {"role", "source", "loss_weight"}
    assert canonical(Segment(Role.TEXT, "reasoning", corrupt=Corruption.SHUFFLED))["corrupt"] == "shuffled"
    trimmed = ReasoningDropout(variant=DropoutVariant.STAGE, scheduled_stage=1).trimmed(
        PhaseSpec("x", (Segment(Role.TEXT, "reasoning", without=(Component.MOVE,)), Segment(Role.ACTION, "action")))
    )
    assert canonical(trimmed)["segments"][0]["without"] == ["task", "move"]
    assert build(PhaseSpec, canonical(trimmed)) == trimmed


def test_canonical_is_json_and_builds_the_same_again() -> None:
    slice_ = DemosSlice(Subset.OBJECT, (0, 3), 8, 42, EnvConfig(assets="builtin", resolution=128), workers=2)
    plain = json.loads(json.dumps(canonical(slice_, key_only=False)))
    assert build(DemosSlice, plain) == slice_
    config = ExperimentConfig(PhaseSpec("x", (Segment(Role.ACTION, "action"),)))
    assert build(ExperimentConfig, json.loads(json.dumps(canonical(config, key_only=False)))) == config


def test_canonical_refuses_what_has_no_plain_form() -> None:
    with pytest.raises(TypeError, match="object cannot be part of a configuration"):
        canonical(Outer(names=(object(),)))  # type: ignore[arg-type]
    assert canonical({"b": Mode.THINK, "a": 1}) == {"a": 1, "b": "think"}


def every_dataclass() -> list[type]:
    found = [c for module in (data, model, phases, schema) for c in vars(module).values()]
    return [c for c in found if isinstance(c, type) and dataclasses.is_dataclass(c)]


def test_every_setting_has_a_type_that_build_understands() -> None:
    """A field typed dict, list or Any would not be checked."""
    for cls in every_dataclass():
        assert cls.__dataclass_params__.frozen, cls  # type: ignore[attr-defined]
        for name, hint in typing.get_type_hints(cls).items():
            plain = getattr(hint, "__origin__", hint)
            is_enum = isinstance(plain, type) and issubclass(plain, Enum)
            known = plain in (int, float, str, bool, tuple) or is_enum or dataclasses.is_dataclass(plain)
            assert known, f"{cls.__name__}.{name}: {hint}"


def test_only_speed_and_names_are_left_out_of_keys() -> None:
    """A field left out of the key that changes a result would make two different results one."""
    in_rewording = set(canonical(RewordSlice(Subset.GOAL, "m", "u", "none", 0, 1)))  # keys of the stage that uses them
    in_evaluation = {"execute"} & {f.name for f in dataclasses.fields(EvaluateSlice)}
    left_out = {f.name for cls in every_dataclass() for f in dataclasses.fields(cls) if not f.metadata.get("key", True)}
    assert left_out <= {
        "label", "workers", "sim_workers", "envs_per_worker", "recycle_episodes", "num_workers", "device", "log_every",
        "checkpoint_every", "folder", "api_key_env", "usd_per_mtok_in", "usd_per_mtok_out",
        "max_usd", "concurrency", "timeout_s", "videos", "log",
    } | in_rewording | in_evaluation  # fmt: skip
