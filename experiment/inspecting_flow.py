"""`nora-ecot inspect --flow`: the study's optical flow and its tokens, measured, filmed and put on a page."""

from __future__ import annotations

import contextlib
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.checks import check, in_range
from configs.choices import STUDY, Subset
from data_pipeline.contract import AGENTVIEW, EpisodeId, FlowTokens
from data_pipeline.libero_utils import parse_subset
from data_pipeline.whole_files import write_text
from experiment.data_stages import Data, expert_views
from experiment.datasets import data_for
from experiment.files import environment_errors
from experiment.given_flow import FLOW_TOKENS, flow_tokens_given
from experiment.resolve import flow_subsets
from experiment.settings import choice_of, places_of
from experiment.stages import StageNode
from experiment.store import Store
from experiment.study import Study, run_study

if TYPE_CHECKING:
    from data_pipeline.raw_loader import Hdf5Source
    from flow_pipeline.flow_facts import Tally
    from flow_pipeline.flow_field import EpisodeFlow
    from flow_pipeline.flow_film import FilmedFlow
    from flow_pipeline.flow_page import Scales, ShownDemo, ShownStep
    from flow_pipeline.vq_encoder import FlowTokenizer

# What reads HDF5 and draws is imported where it is used: `--help` and `--dry-run` answer at once.

FILMED_PER_TASK = 1
SHOWN_STEPS = 5
LONGEST_SHARE = 0.98  # of the moving cells are within the colour scale


def inspect_flow(values: Namespace) -> int:
    """Write flow_<subset>.html with its films. What makes flow and tokens is brought up to date first."""
    check(not values.data, "--flow shows the study's own; leave --data out")
    check(bool(values.subset) or values.all_subsets, "give --subset NAME or --all-subsets")
    check(not (values.flow_tokens and values.all_subsets), "--flow_tokens is a file of one subset; give --subset NAME")
    values.demos = FILMED_PER_TASK if values.demos is None else values.demos
    in_range("--demos", values.demos, 0)
    subsets = STUDY if values.all_subsets else (parse_subset(values.subset),)
    data, prepared = data_for(values, *subsets, needed=flow_subsets)
    targets = tuple(data.tokens(subset) for subset in subsets)
    study = Study(data.places, targets, tuple(expert_views(data)), title="inspect", decisions=prepared.said)
    done = run_study(study, choice_of(values, data.config))
    if values.dry_run or done.code:
        return done.code
    output = Path(values.output) if values.output else places_of(values).output_dir / "inspect"
    for subset in subsets:
        given = Path(values.flow_tokens) if values.flow_tokens else None
        write_flow_page(find_made(data, subset, given), subset, output, values.demos)
    return 0


# ------------------------------------------------------------------ what is there


@dataclass(frozen=True)
class Found:
    """Flow and tokens of one subset that belong together, and their demonstrations."""

    demos: Path
    flow: Mapping[EpisodeId, EpisodeFlow]
    tokens: Mapping[EpisodeId, FlowTokens]  # not empty
    tokenizer: FlowTokenizer
    manifest: Mapping[str, Any]  # of the tokens
    settings: Sequence[tuple[str, str]]
    fitted: Sequence[str]  # how well a fitted tokenizer does on each subset; () of others


def find_made(data: Data, subset: Subset, given: Path | None) -> Found:
    """What the stages made; given: a file of flow tokens in place of the stage's.

    Raises ConfigError where it was not made with these settings or of these demonstrations, EnvironmentProblem where it
    is missing or damaged.
    """
    from data_pipeline.flow_tokens import check_flow_manifest, load_flow_manifest, load_flow_tokens, made_of
    from data_pipeline.raw_loader import Hdf5Source
    from flow_pipeline.flow_field import load_flow
    from flow_pipeline.token_quality import MOVING_PX
    from flow_pipeline.vq_encoder import TOKENIZER_FILE, load_tokenizer

    store, own = Store(data.places.store), data.tokens(subset)
    shown = flow_tokens_given(store, given, own) if given else own
    nodes = (data.regenerate(subset), data.flow(subset), shown)
    demos, made_flow, made_tokens = (store.entry(node.stage, node.key) for node in nodes)
    path = made_tokens / FLOW_TOKENS[1]
    flow, flow_manifest = load_flow(made_flow / "flow.npz")
    manifest = load_flow_manifest(path)
    with contextlib.closing(Hdf5Source(demos, subset)) as source:
        check_flow_manifest(given or path, manifest, made_of(map(source.open, source.list())), subset)
    settings = {
        "backend": str(manifest["backend"]),
        "k": f"{manifest['k']} control steps (action.horizon)",
        "camera, frame": f"{manifest['camera']}, {manifest['frame']}",
        "flow": f"{flow_manifest['cells']} x {flow_manifest['cells']} cell means, {flow_manifest['unit']}",
        "tokenizer": json.dumps(manifest["tokenizer"], sort_keys=True),
        "tokenizer digest": manifest["tokenizer_digest"],
        "cells that move": f"at least {MOVING_PX:g} px",
        "made by": "; ".join(f"{node.label}, {node.key}" for node in nodes),
        **({"tokens of": str(given)} if given else {}),
        **{n: json.dumps(v, sort_keys=True) for n, v in flow_manifest.items() if n not in _SAID},
    }
    return Found(
        demos=demos,
        flow=flow,
        tokens=load_flow_tokens(path),
        tokenizer=load_tokenizer(made_tokens / TOKENIZER_FILE),
        manifest=manifest,
        settings=list(settings.items()),
        fitted=_fitted(store, own),
    )


def _fitted(store: Store, tokens: StageNode) -> list[str]:
    """What the stage `codebook` found of each of its subsets, in words, and its alarms."""
    if "codebook" not in tokens.inputs:
        return []
    from flow_pipeline.codebook import CODEBOOK_FILE
    from flow_pipeline.token_quality import alarms, quality_line

    node = tokens.inputs["codebook"]
    found = json.loads((store.entry(node.stage, node.key) / CODEBOOK_FILE).read_text(encoding="utf-8"))["quality"]
    return [*(quality_line(name, figures) for name, figures in found.items()), *alarms(found)]


_SAID = ("backend", "k", "camera", "frame", "unit", "cells")


# ------------------------------------------------------------------ the page


def write_flow_page(found: Found, subset: Subset, output: Path, per_task: int) -> None:
    """Write flow_<subset>.html and the films of `per_task` demonstrations of each task into `output`; say so."""
    from data_pipeline.findings import counted, listed
    from data_pipeline.raw_loader import Hdf5Source
    from flow_pipeline.flow_checks import run_checks, total
    from flow_pipeline.flow_page import FlowPage, render_flow_page

    source = Hdf5Source(found.demos, subset)
    tallies = _tallies(found, source)
    whole, scales = total(tallies), _scales(total(tallies))
    checks = run_checks(tallies, found.manifest.get("quality", {}).get("epe_moving"))
    lead = (
        f"{whole.episodes} demonstrations of {counted(tallies, 'task')}, {whole.steps} steps; from each step to "
        f"{next(iter(found.tokens.values())).k} steps later, {found.manifest['backend']}"
    )
    with environment_errors():
        output.mkdir(parents=True, exist_ok=True)
        demos = list(_demos(found, source, output, per_task, scales))
        title = f"Optical flow of LIBERO-{subset.value.capitalize()} and its tokens"
        page = FlowPage(title, lead, found.settings, found.fitted, tallies, checks, demos, scales)
        target = output / f"flow_{subset.value}.html"
        write_text(target, render_flow_page(page))
    source.close()
    print(f"{subset.value}: {lead}")
    print(f"  moving cells: error {whole.epe_moving:.2f} px, no motion {whole.zero_moving:.2f} px")
    for finding in (finding for one in checks for finding in one.findings):
        print(f"  warning: {finding.says}: {listed(finding.where)}")
    print(f"  page: {target}, {sum(bool(demo.film) for demo in demos)} films beside it")


def _tallies(found: Found, source: Hdf5Source) -> dict[str, Tally]:
    """Per task, by number and instruction."""
    from flow_pipeline.flow_facts import tally

    limit_px = float(found.tokenizer.definition.get("limit_px", np.inf))  # no code says more
    made: dict[int, Tally] = {}
    names: dict[int, str] = {}
    for episode, tokens in sorted(found.tokens.items()):
        one = tally(found.flow[episode], tokens, found.tokenizer.decode(tokens.codes), limit_px)
        task = episode.task_id
        made[task] = made[task] + one if task in made else one
        names[task] = names.get(task) or f"{task} {source.open(episode).instruction}"
    return {names[task]: made[task] for task in sorted(made)}


def _scales(whole: Tally) -> Scales:
    """Of pictures: nearly all moving cells within one, twice their mean error within the other."""
    from flow_pipeline.flow_colors import round_scale
    from flow_pipeline.flow_facts import EDGES_PX
    from flow_pipeline.flow_page import Scales

    reached = np.cumsum(whole.lengths[0]) >= LONGEST_SHARE * max(whole.moving, 1)
    end = EDGES_PX[1:-1][min(int(reached.argmax()), len(EDGES_PX) - 3)] if whole.moving else 1.0
    return Scales(round_scale(end), round_scale(2 * whole.epe_moving))


def _demos(found: Found, source: Hdf5Source, output: Path, per_task: int, scales: Scales) -> Iterator[ShownDemo]:
    """The first demonstrations of each task, filmed; one without a film where none is wanted."""
    from flow_pipeline.flow_film import FilmedFlow, film_pictures, write_flow_film
    from flow_pipeline.flow_page import ShownDemo

    for episode in _first(list(found.tokens), max(per_task, 1)):
        demo, tokens = source.open(episode), found.tokens[episode]
        flow, decoded = found.flow[episode].flow.astype(np.float32), found.tokenizer.decode(tokens.codes)
        caption = f"{episode}: {demo.instruction}"
        filmed = FilmedFlow(caption, demo.frames(AGENTVIEW), flow, decoded, tokens.k_effective, tokens.k)
        shown = ShownDemo(str(episode), demo.instruction, list(_steps(filmed, tokens.codes)))
        if per_task:
            name = f"flow_{str(episode).replace('/', '_')}.mp4"
            write_flow_film(output / name, filmed, scales)
            shown = replace(shown, film=name, poster=next(film_pictures(filmed, [demo.num_steps // 2], scales)))
        yield shown


def _first(episodes: Sequence[EpisodeId], per_task: int) -> Iterator[EpisodeId]:
    for episode in sorted(episodes):
        if sum(other.task_id == episode.task_id and other < episode for other in episodes) < per_task:
            yield episode


def _steps(demo: FilmedFlow, codes: np.ndarray) -> Iterator[ShownStep]:
    """Evenly spaced ones, from the first to the last that looks the whole horizon ahead."""
    from flow_pipeline.flow_page import ShownStep

    last = max(len(codes) - 1 - demo.k, 0)
    for t in sorted(set(np.linspace(0, last, SHOWN_STEPS).round().astype(int).tolist())):
        ahead = int(demo.k_effective[t])
        yield ShownStep(t, ahead, demo.frames[t], demo.frames[t + ahead], demo.flow[t], demo.decoded[t], codes[t])
