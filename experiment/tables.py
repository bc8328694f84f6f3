"""Which evaluations share a table, and what it is called."""

from __future__ import annotations

from collections.abc import Mapping

from configs.choices import Subset
from configs.schema import ExperimentConfig
from experiment.resolve import DataSource
from experiment.stages import StageNode, digest
from training.base_folder import TINY_BASES

GROUP_MARK = " #"
_ANY_NUMBER_OF = ("num_trials", "think_trials", "modes", "batch_rows", "perturb")
"""Settings of an evaluation that do not keep its rows out of another's table (perturbed ones have their own there)."""


def table_title(config: ExperimentConfig, sources: Mapping[Subset, DataSource]) -> str:
    """What the table is, and on what. Results with different titles never share a table."""
    kinds = sorted({source.kind for source in sources.values()}) or [config.data.source]
    on = f"{' and '.join(kinds)} demonstrations, {config.env.assets} assets, {config.env.look.value} look"
    if config.model.base in TINY_BASES:
        return f"Tiny preset: a check of the machinery, not a result about the methods ({on})"
    return f"{config.model.base} on LIBERO ({on})"


def table_group(title: str, evaluate: StageNode) -> str:
    """Names the evaluations that may share a table: same title, protocol, environment, and base where there is one."""
    config = dict(evaluate.spec.key_config)
    protocol = {name: value for name, value in config["eval"].items() if name not in _ANY_NUMBER_OF}
    base = evaluate.spec.inputs.get("base")
    same = {"protocol": protocol, "env": config["env"], "execute": config["execute"]}
    return f"{title}{GROUP_MARK}{digest(same)[:8]}" + (f"-{base.key[:8]}" if base else "")


def belongs(group: str, table: str) -> bool:
    """Whether rows of `group` stand in the table of the group `table`: a control, which has no base, in that of any."""
    return group == table or table.startswith(f"{group}-")
