"""What finished flow tokens say of themselves, at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiment.stages import StageNode
from experiment.store import Manifest

STAGE, FITTED = "tokens", "codebook"
QUALITY = "quality"
"""Under which both stages leave their figures among their remarks."""


def token_lines(ran: Sequence[StageNode], manifests: Mapping[str, Manifest]) -> list[str]:
    """A line for each tokens stage that ran, and an alarm for each subset that is served worse than the others.

    manifests: key -> of the finished stages of this run. Where one codebook serves all, its figures
    stand for the subsets that have no tokens here.
    """
    found = {key: m for key, m in manifests.items() if QUALITY in m.remarks}
    mine = [found[node.key] for node in ran if node.stage == STAGE and node.key in found]
    if not mine:
        return []
    from flow_pipeline.token_quality import alarms, quality_line  # OpenCV: only where there is something to say

    figures = {s: f for m in found.values() if m.stage == FITTED for s, f in m.remarks[QUALITY].items()}
    figures |= {m.slug: m.remarks[QUALITY] for m in found.values() if m.stage == STAGE}
    return [*(quality_line(f"flow tokens of {m.slug}", m.remarks[QUALITY]) for m in mine), *alarms(figures)]
