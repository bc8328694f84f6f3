"""`nora-ecot inspect --annotations`: the study's chains of thought, counted in tokens, filmed and put on a page."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.checks import check, in_range
from configs.choices import STUDY, Subset
from data_pipeline.contract import AGENTVIEW, Annotation, EpisodeId
from data_pipeline.libero_utils import parse_subset
from data_pipeline.whole_files import write_text
from experiment.data_stages import Data, expert_views
from experiment.datasets import data_for
from experiment.files import environment_errors
from experiment.settings import choice_of, places_of
from experiment.store import Store
from experiment.study import Study, run_study
from training.base_folder import SCRATCH, TINY
from training.shipped_base import SHIPPED

if TYPE_CHECKING:
    from data_pipeline.reasoning_page import Filmed
    from training.token_counts import Encode

# What reads HDF5, draws and tokenises is imported where it is used: `--help` and `--dry-run` answer at once.

FILMED_PER_TASK = 1


def inspect_annotations(values: Namespace) -> int:
    """Write annotations_<subset>.html with its films. What writes annotations is brought up to date first."""
    check(not values.data, "--annotations shows the study's own; leave --data out")
    check(bool(values.subset) or values.all_subsets, "give --subset NAME or --all-subsets")
    values.demos = FILMED_PER_TASK if values.demos is None else values.demos
    in_range("--demos", values.demos, 0)
    subsets = STUDY if values.all_subsets else (parse_subset(values.subset),)
    data, prepared = data_for(values, *subsets)
    targets = tuple(data.reasoning(subset) for subset in subsets)
    study = Study(data.places, targets, tuple(expert_views(data)), title="inspect", decisions=prepared.said)
    done = run_study(study, choice_of(values, data.config))
    if values.dry_run or done.code:
        return done.code
    encode = _tokenizer(values, data)
    for subset in subsets:
        _inspect_one(values, data, subset, encode)
    return 0


@dataclass(frozen=True)
class _Tokens:
    """How this study's base, or the vocabulary named, writes text; why not, where it is not at hand."""

    encode: Encode | None
    why: str


def _tokenizer(values: Namespace, data: Data) -> _Tokens:
    config = data.config
    if values.vocabulary:
        from training.qwen_vocabulary import QwenVocabulary

        return _Tokens(QwenVocabulary.read(Path(values.vocabulary)).encode, "")
    if config.model.base == TINY:
        folder: Path | str = SHIPPED
    elif config.model.base == SCRATCH:
        node = data_for(values, *STUDY)[0].base()
        folder = Store(data.places.store).entry(node.stage, node.key) / "base"
        if not Path(folder).is_dir():
            return _Tokens(None, "tokens: not counted, the tiny base is not trained yet; run_experiment does so")
    else:
        folder = config.model.base
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(
            folder, revision=config.model.revision or "main", local_files_only=True
        )
    except OSError:
        return _Tokens(None, f"tokens: not counted, {config.model.base} is not on this machine; hf download fetches it")
    return _Tokens(lambda text: found.backend_tokenizer.encode(text, add_special_tokens=False).ids, "")


def _inspect_one(values: Namespace, data: Data, subset: Subset, tokens: _Tokens) -> None:
    from data_pipeline.reasoning_page import render_reasoning_page
    from data_pipeline.sidecar import load_annotations

    store, node = Store(data.places.store), data.reasoning(subset)
    path = store.entry(node.stage, node.key) / "annotations.json"
    annotations = load_annotations(path)
    steps = sum(len(a.steps) for a in annotations.values())
    facts = [f"{len(annotations)} demonstrations, {steps} steps; written by stage {node.label}, {node.key}"]
    counted = _counts(data, annotations, tokens)
    print(f"{subset.value}: {facts[0]}")
    print("\n".join(counted) or tokens.why)
    output = Path(values.output) if values.output else places_of(values).output_dir / "inspect"
    with environment_errors():
        output.mkdir(parents=True, exist_ok=True)
        filmed = _film(output, data, subset, annotations, _tracks(path), values.demos)
        page = output / f"annotations_{subset.value}.html"
        title = f"Chains of thought of LIBERO-{subset.value.capitalize()}"
        write_text(page, render_reasoning_page(title, facts, counted, filmed))
    print(f"  page: {page}, {len(filmed)} films beside it")


def _counts(data: Data, annotations: Mapping[EpisodeId, Annotation], tokens: _Tokens) -> list[str]:
    """The table for a sequence with text, and what flow adds."""
    if tokens.encode is None:
        return []
    from training.token_counts import count_tokens

    config, codes = data.config, data.config.flow.cells**2
    limit = config.eval.max_new_tokens
    plain = count_tokens(annotations.values(), tokens.encode)
    flow = count_tokens(annotations.values(), tokens.encode, codes)
    with_flow = f"  with {codes} flow codes: {100 * flow.cut(limit):.1f} % cut"
    return [*plain.lines(limit), str(flow.written), with_flow]


def _tracks(path: Path) -> dict[EpisodeId, np.ndarray]:
    """Where the gripper is now, int [T, 2], of episodes that say so."""
    entries = [e for episodes in json.loads(path.read_text(encoding="utf-8")).values() for e in episodes.values()]
    points = {EpisodeId.parse(e["metadata"]["episode_id"]): e["features"].get("gripper_position") for e in entries}
    return {episode: np.array(track) for episode, track in points.items() if track is not None}


def _film(
    output: Path,
    data: Data,
    subset: Subset,
    annotations: Mapping[EpisodeId, Annotation],
    tracks: Mapping[EpisodeId, np.ndarray],
    per_task: int,
) -> Sequence[Filmed]:
    """Films of the first demonstrations of each task."""
    from data_pipeline.raw_loader import Hdf5Source
    from data_pipeline.reasoning_film import write_reasoning_film
    from data_pipeline.reasoning_page import Filmed

    store, demos = Store(data.places.store), data.regenerate(subset)
    source = Hdf5Source(store.entry(demos.stage, demos.key), subset)
    filmed: list[Filmed] = []
    for episode in (e for e in annotations if sum(o.task_id == e.task_id and o < e for o in annotations) < per_task):
        demo, name = source.open(episode), f"annotations_{str(episode).replace('/', '_')}.mp4"
        steps = annotations[episode].steps
        write_reasoning_film(output / name, demo.frames(AGENTVIEW), steps, tracks.get(episode), str(episode))
        filmed.append(Filmed(demo.instruction, annotations[episode], name))
    source.close()
    return filmed
