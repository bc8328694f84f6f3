"""A finished evaluation as files, without running one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from configs.choices import Subset
from data_pipeline.libero_utils import MAX_STEPS
from evaluation.episodes import EpisodeResult, Protocol, to_row
from evaluation.identity import identity_of
from evaluation.records import EPISODES, SUMMARY, TIMINGS, summarise


def write_evaluation(
    folder: Path,
    phase: str,
    subset: Subset,
    results: Sequence[EpisodeResult],
    *,
    look: str = "light",
    control: bool = False,
) -> None:
    """episodes.jsonl, timings.jsonl and summary.json in a folder."""
    folder.mkdir(parents=True)
    modes = sorted({r.key.mode for r in results})
    summary = {
        "subset": subset.value,
        "run": phase + subset.value,
        "adapter": "0" * 16,
        "card": {"base": "tiny:abc", "phase": {"name": phase, "label": phase} | ({} if control else {"segments": []})},
        "fingerprint": {"look": look},
        "protocol": asdict(Protocol("standard", 10, MAX_STEPS[subset], 4, True, 4, 280)),
        "modes": {mode: summarise([r for r in results if r.key.mode == mode]) for mode in modes},
        "videos": [],
    }
    (folder / SUMMARY).write_text(json.dumps(summary))
    columns = identity_of(summary).columns
    (folder / EPISODES).write_text("".join(json.dumps(to_row(r) | columns) + "\n" for r in results))
    (folder / TIMINGS).write_text("".join(json.dumps(asdict(r.key) | dict(r.timing)) + "\n" for r in results))
