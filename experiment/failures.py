"""`nora-ecot failures RUN ...`: the episodes of evaluations by how far they came, and how they moved between runs."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.checks import ConfigError, check
from configs.choices import Mode
from experiment.flags import Parser

if TYPE_CHECKING:
    from evaluation.episodes import EpisodeResult
    from evaluation.table import RunRecord

# What reads evaluations is imported where it is used: `--help` answers at once.

_RESULTS = "outputs/eval_results"
_TASKS_ABREAST = 12


@dataclass(frozen=True)
class _Part:
    """The episodes of one run in one decoding mode."""

    folder: Path
    record: RunRecord
    mode: str
    episodes: tuple[EpisodeResult, ...]

    @property
    def name(self) -> str:
        """`text_cot/object, no_think`."""
        return f"{self.record.slug}, {self.mode}"

    @property
    def tasks(self) -> list[int]:
        """Numbers of the tasks that were run."""
        return sorted({e.key.task_id for e in self.episodes})


def main(argv: Sequence[str]) -> int:
    """Print the tables, or everything as JSON. Raises ConfigError for what is no evaluation."""
    values = _parse(argv)
    parts = [part for path in values.runs for folder in find_runs(path) for part in _parts(folder, values.mode)]
    check(bool(parts), f"no episode of these runs was decoded with --mode {values.mode}; leave it out to see all")
    pairs = _pairs(parts, chosen=len(values.runs) > 1)
    print(json.dumps(_as_json(parts, pairs), indent=1, ensure_ascii=False) if values.json else _as_text(parts, pairs))
    return 0


def _parse(argv: Sequence[str]) -> Namespace:
    parser = Parser(prog="nora-ecot failures", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=f"e.g. {_RESULTS}/text_cot/object, or above")
    parser.flag("mode", choices=[mode.value for mode in Mode], help="default: every mode that was run")
    parser.flag("json", action="store_true", help="every episode with its category, and all counts")
    values = parser.parse(argv)
    check(bool(values.runs), f"name an evaluation, e.g. `nora-ecot failures {_RESULTS}/text_cot/object`")
    return values


def find_runs(path: Path) -> list[Path]:
    """The evaluation in a folder, or all below it but the store's copies. Raises ConfigError where there is none."""
    from evaluation.records import SUMMARY

    path = path.expanduser()
    if (path / SUMMARY).is_file():
        return [path]
    below = sorted(file.parent for file in path.glob(f"**/{SUMMARY}")) if path.is_dir() else []
    below = [folder for folder in below if not any(part.startswith(".") for part in folder.relative_to(path).parts)]
    if not below:
        elsewhere = Path(_RESULTS) / path
        hint = f"did you mean {elsewhere}?" if elsewhere.is_dir() else "evaluate first, e.g. with scripts/evaluate.py"
        raise ConfigError(f"{path} {'holds no evaluation' if path.is_dir() else 'does not exist'}; {hint}")
    return below


def _parts(folder: Path, mode: str | None) -> list[_Part]:
    from evaluation.failures import told
    from evaluation.report import read_record

    slug = "/".join(folder.resolve().parts[-2:])
    record = read_record(slug, {f"evaluate/{slug}": folder})
    check(told(record.episodes), f"{folder} was evaluated before milestones were recorded; evaluate it again")
    modes = [m.value for m in Mode if mode in (None, m.value) and any(e.key.mode == m.value for e in record.episodes)]
    return [_Part(folder, record, m, tuple(e for e in record.episodes if e.key.mode == m)) for m in modes]


def _pairs(parts: Sequence[_Part], *, chosen: bool) -> list[tuple[_Part, _Part]]:
    """Each run with the next of its subset and mode; of a whole folder's runs those of phases, equally perturbed."""
    families: dict[tuple[str, ...], list[_Part]] = {}
    for part in parts:
        record = part.record
        if chosen or not record.is_control:
            family = (record.subset.value, part.mode, "" if chosen else record.perturbation)
            families.setdefault(family, []).append(part)
    return [pair for family in families.values() for pair in pairwise(family)]


def _apart(before: _Part, after: _Part) -> str:
    """Why two runs cannot be compared, "" where they can."""
    from evaluation.table import check_mergeable

    try:
        check_mergeable([before.record, after.record])
    except ConfigError as problem:
        return str(problem)
    return ""


def _film(part: _Part, episode: EpisodeResult) -> str:
    """The command that shows an episode."""
    mode = f" --mode {part.mode}" if part.mode == Mode.THINK.value else ""
    folder = shlex.quote(str(part.folder))
    return f"nora-ecot film {folder} --task {episode.key.task_id} --init_state {episode.key.init_state}{mode}"


# ------------------------------------------------------------------ for people


def _as_text(parts: Sequence[_Part], pairs: Sequence[tuple[_Part, _Part]]) -> str:
    return "\n\n".join([*map(_part_text, parts), *(_moves_text(*pair) for pair in pairs), _names(parts)])


def _part_text(part: _Part) -> str:
    from evaluation.failures import Category, judge, tally

    counts = tally(part.episodes)
    trials = len(part.episodes) - counts.get(Category.ERROR, 0)
    lines = [f"{part.name}: {counts.get(Category.SUCCESS, 0)} of {trials} episodes succeed"]
    by_task = {task: tally(e for e in part.episodes if e.key.task_id == task) for task in part.tasks}
    for first in range(0, len(part.tasks), _TASKS_ABREAST):
        columns = part.tasks[first : first + _TASKS_ABREAST]
        rows = [[str(c), *(str(by_task[t].get(c, 0)) for t in columns), str(n)] for c, n in counts.items()]
        lines += _grid([["", *(f"task {task}" for task in columns), "all"], *rows])
    for category in counts:
        if category not in (Category.SUCCESS, Category.ERROR):
            example = next(e for e in part.episodes if judge(e).category is category)
            lines.append(f"  e.g. {judge(example)}:\n    {_film(part, example)}")
    return "\n".join(lines)


def _moves_text(before: _Part, after: _Part) -> str:
    from evaluation.failures import Category, moves

    head = f"{before.record.slug} (down) -> {after.record.slug} (across), {before.mode}: "
    if refused := _apart(before, after):
        return f"{head}not compared: {refused}"
    counts = moves(before.episodes, after.episodes)
    rows, columns = ([c for c in Category if any(pair[i] is c for pair in counts)] for i in (0, 1))
    grid = [["", *map(str, columns)]] + [[str(a), *(str(counts.get((a, b), 0)) for b in columns)] for a in rows]
    return "\n".join([f"{head}{sum(counts.values())} episodes of both", *(_grid(grid) if counts else [])])


def _names(parts: Sequence[_Part]) -> str:
    named = {(p.record.subset.value, e.key.task_id): e.task_name for p in parts for e in p.episodes if e.task_name}
    return "\n".join(f"{subset} task {task}: {name}" for (subset, task), name in sorted(named.items()))


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


# ------------------------------------------------------------------ for programs


def _as_json(parts: Sequence[_Part], pairs: Sequence[tuple[_Part, _Part]]) -> dict[str, Any]:
    return {"runs": list(map(_part_json, parts)), "moves": [_moves_json(*pair) for pair in pairs]}


def _moves_json(before: _Part, after: _Part) -> dict[str, Any]:
    from evaluation.failures import moves

    told = {"from": str(before.folder), "to": str(after.folder), "mode": before.mode}
    if refused := _apart(before, after):
        return told | {"refused": refused}
    counts = moves(before.episodes, after.episodes)
    return told | {"counts": [{"from": a, "to": b, "episodes": n} for (a, b), n in counts.items()]}


def _part_json(part: _Part) -> dict[str, Any]:
    from evaluation.failures import judge, tally

    return {
        "run": str(part.folder),
        "subset": part.record.subset.value,
        "mode": part.mode,
        "counts": tally(part.episodes),
        "tasks": {str(task): tally(e for e in part.episodes if e.key.task_id == task) for task in part.tasks},
        "episodes": [
            {
                "task": episode.key.task_id,
                "init_state": episode.key.init_state,
                "seed": episode.key.seed,
                "category": verdict.category,
                "goal": verdict.goal,
                "reached": verdict.reached,
                "goals": verdict.goals,
                "film": _film(part, episode),
            }
            for episode in part.episodes
            for verdict in [judge(episode)]
        ],
    }
