"""What a stage is: its function, its worker, its configuration slice and its inputs; and the key that follows.

A node is pure data. Two nodes with the same key are the same work, whoever asks for it. What crosses to another
process is the JSON of a `StageSpec`, never a closure.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from configs import building
from experiment.secret import NETWORK

KEY_LENGTH = 20  # hex digits of the sha256 that name a folder


@dataclass(frozen=True)
class StageKind:
    """One row of the stage table."""

    function: str  # "module:function"
    worker: str  # sim: simulator, never torch; torch: models; net: calls services; light: none of it
    version: int = 1  # raise it when the function gives another result for the same configuration
    typical_s: float = 10.0  # rough duration at tiny size on one core, for scheduling before anything was measured


STAGES: dict[str, StageKind] = {
    "demos": StageKind("data_pipeline.sim.demos:run_demos", "sim", version=6, typical_s=40),
    "official": StageKind("data_pipeline.raw_loader:run_official", "light", typical_s=5),
    "regenerate": StageKind("data_pipeline.libero_regenerator:run_regenerate", "sim", version=2, typical_s=40),
    "split": StageKind("data_pipeline.data_splitter:run_split", "light", version=2, typical_s=1),
    "stats": StageKind("data_pipeline.action_stats:run_stats", "light", typical_s=1),
    "annotate": StageKind("data_pipeline.ecot_annotator:run_annotate", "sim", version=6, typical_s=20),
    "reword": StageKind("data_pipeline.llm_annotator:run_reword", NETWORK, typical_s=60),
    "flow": StageKind("flow_pipeline.raft_processor:run_flow", "sim", version=3, typical_s=40),
    "codebook": StageKind("flow_pipeline.codebook:run_codebook", "torch", version=2, typical_s=400),
    "tokens": StageKind("flow_pipeline.vq_encoder:run_tokens", "light", version=4, typical_s=3),
    "base": StageKind("training.base_trainer:run_base", "torch", version=3, typical_s=240),
    "shipped": StageKind("training.shipped_base:run_shipped", "light", typical_s=1),
    "train": StageKind("experiment.training:run_train", "torch", version=3, typical_s=30),
    "evaluate": StageKind("evaluation.libero_eval:run_evaluate", "torch", version=3, typical_s=50),
    "replay": StageKind(
        "evaluation.replay:run_replay", "torch", version=3, typical_s=25
    ),  # there, because of its warm simulators
    "control": StageKind("evaluation.controls:run_control", "torch", typical_s=25),
    "full": StageKind("evaluation.full_checkpoint:run_full", "torch", typical_s=50),
    "report": StageKind("evaluation.report:run_report", "light", typical_s=10),
}
"""Where each stage's code is. The flow stage moves to a torch worker when its backend is a network (`make_node`)."""


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of plain values."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True)
class InputRef:
    """Names a finished stage in the store."""

    stage: str
    key: str


@dataclass(frozen=True)
class StageSpec:
    """Everything a worker needs to run one stage, as plain values."""

    stage: str
    slug: str  # for people: text_cot/object; not part of the key
    version: int
    function: str
    config_class: str  # "module:Class" of the slice; "" passes the plain mapping
    config: Mapping[str, Any]  # every field
    key_config: Mapping[str, Any]  # the fields that can change a result
    inputs: Mapping[str, InputRef]

    @cached_property
    def key(self) -> str:
        """Content address: sha256 over stage, version, configuration slice and the keys of the inputs."""
        identity = {
            "stage": self.stage,
            "version": self.version,
            "config": dict(self.key_config),
            "inputs": {name: ref.key for name, ref in self.inputs.items()},
        }
        return digest(identity)[:KEY_LENGTH]

    def to_json(self) -> str:
        """One line of JSON; inverse of `from_json`."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StageSpec:
        """Inverse of `to_json`."""
        plain = json.loads(text)
        plain["inputs"] = {name: InputRef(**ref) for name, ref in plain["inputs"].items()}
        return cls(**plain)

    def build_config(self) -> Any:
        """The configuration slice as its dataclass."""
        if not self.config_class:
            return dict(self.config)
        return building.build(load(self.config_class), self.config)


@dataclass(frozen=True, eq=False)
class StageNode:
    """A stage in the graph. `stored` marks an input that the store already holds and that nothing here can remake."""

    spec: StageSpec
    worker: str = "light"
    inputs: Mapping[str, StageNode] = field(default_factory=dict[str, "StageNode"])
    stored_key: str = ""

    @property
    def stage(self) -> str:
        """Name in the stage table."""
        return self.spec.stage

    @property
    def key(self) -> str:
        """Content address."""
        return self.stored_key or self.spec.key

    @property
    def cores(self) -> int:
        """What it occupies: its slice's `workers`. (An evaluation's simulators and its policy take turns: one.)"""
        return int(self.spec.config.get("workers", 1))

    @property
    def is_stored(self) -> bool:
        """Whether this is a fixed store entry instead of something to build."""
        return bool(self.stored_key)

    @property
    def label(self) -> str:
        """For people: `train text_cot/object`."""
        return f"{self.stage} {self.spec.slug}".strip()


def make_node(stage: str, slug: str, config: Any, inputs: Mapping[str, StageNode], *, worker: str = "") -> StageNode:
    """A node of the stage table; `worker` replaces the table's kind of worker."""
    kind = STAGES[stage]
    cls = type(config)
    spec = StageSpec(
        stage=stage,
        slug=slug,
        version=kind.version,
        function=kind.function,
        config_class="" if isinstance(config, Mapping) else f"{cls.__module__}:{cls.__qualname__}",
        config=building.canonical(config, key_only=False),
        key_config=building.canonical(config),
        inputs={name: InputRef(node.stage, node.key) for name, node in sorted(inputs.items())},
    )
    return StageNode(spec, worker or kind.worker, dict(inputs))


def stored_node(stage: str, slug: str, key: str) -> StageNode:
    """A fixed entry of the store as an input."""
    return StageNode(StageSpec(stage, slug, 1, "", "", {}, {}, {}), "light", {}, stored_key=key)


def topological(targets: Iterable[StageNode]) -> list[StageNode]:
    """All nodes needed for the targets, inputs first, each key once."""
    ordered: dict[str, StageNode] = {}

    def visit(node: StageNode) -> None:
        if node.key in ordered:
            return
        for needed in node.inputs.values():
            visit(needed)
        ordered[node.key] = node

    for target in targets:
        visit(target)
    return list(ordered.values())


def load(name: str) -> Any:
    """The object that "module:attribute" names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
