"""Where a run's folders lie, and which finished stage is published in which of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.choices import Subset
from experiment.resolve import EXPERT
from experiment.stages import StageNode
from experiment.views import View


@dataclass(frozen=True)
class Places:
    """Folders of a run."""

    output_dir: Path
    data_dir: Path

    @property
    def store(self) -> Path:
        """Root of the store."""
        return self.output_dir / ".store"

    @property
    def replies(self) -> Path:
        """Paid replies of language models and what they cost; apart from the store, so that they outlive it."""
        return self.output_dir / ".llm_cache"

    @property
    def results(self) -> Path:
        """Where the table is published."""
        return self.output_dir / "eval_results"


def demos_view(places: Places, node: StageNode, subset: Subset) -> View:
    """Expert demonstrations, apart from downloads. Deleting them is no request: they are linked again."""
    note = f'{{"stage":"{node.stage}","demonstrations":"{EXPERT}"}}'
    return View(node, places.data_dir / f"libero_{subset.value}_expert", redo=False, note=note)


def train_view(places: Places, node: StageNode) -> View:
    """outputs/<phase>/<subset>/: checkpoint-final/, metrics.jsonl."""
    return View(node, places.output_dir / node.spec.slug)


def evaluate_view(places: Places, node: StageNode, group: str) -> View:
    """outputs/eval_results/<phase>/<subset>/, of a perturbed one <phase>/<subset>@camera2/."""
    return View(node, places.results / node.spec.slug, group=group)


def report_view(places: Places, node: StageNode, group: str) -> View:
    """outputs/eval_results/: results.md, .csv, .html, videos/."""
    return View(node, places.results, group=group)
