"""What may be wrong with demonstrations: Inspection -> findings, each with the values and what to do.

One function per check; every one is run and named on the page, also where it finds nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from data_pipeline import action_checks, image_checks
from data_pipeline.contract import EpisodeId
from data_pipeline.demo_outcomes import MIN_START_DISTANCE_M
from data_pipeline.findings import Check, Findings, counted, found, listed
from data_pipeline.inspection import DemoFacts, Inspection, TaskFacts, seconds
from data_pipeline.libero_utils import MAX_STEPS, instruction

LENGTH_RATIO = 2.0
"""A demonstration longer than its task's median times this, or shorter than the median divided by it, stands out."""
MIN_FOR_MEDIAN = 4
Find = Callable[[Inspection], Findings]


def run_checks(inspection: Inspection) -> tuple[Check, ...]:
    """All checks, in the order of the list below."""
    lacks = _lacking(inspection)
    return tuple(Check(name, find(inspection), lacks.get(find, "")) for name, find in _CHECKS.items())


def _lacking(inspection: Inspection) -> dict[Find, str]:
    """Checks that say nothing here, and why."""
    known = inspection.known
    starts = any(demo.start_distance_m is not None for demo in inspection.demos)
    there = {
        action_checks.clipped: ("no statistics", known.statistics is not None),
        _split: ("no split", known.split is not None),
        image_checks.environments: ("the files do not name their environment", bool(inspection.fingerprints)),
        _near_starts: ("distances are known of the expert's demonstrations only (demos.json)", starts),
    }
    return {find: why for find, (why, present) in there.items() if not present}


# ------------------------------------------------------------------ episodes


def _lengths(inspection: Inspection) -> Findings:
    where: list[str] = []
    for task in inspection.tasks:
        median = float(np.median(task.lengths))
        if len(task.demos) >= MIN_FOR_MEDIAN:
            odd = [d for d in task.demos if not median / LENGTH_RATIO <= d.num_steps <= median * LENGTH_RATIO]
            where += [f"{d.id}: {seconds(d.num_steps):.1f} s where the median is {seconds(median):.1f} s" for d in odd]
    return found(
        f"{counted(where, 'demonstration')} took less than half or more than twice the median time of the task",
        where,
        "Look at these demonstrations: recoveries are welcome, waiting and wandering are not.",
    )


def _limit(inspection: Inspection) -> Findings:
    limit = MAX_STEPS[inspection.subset]
    where = [f"{demo.id}: {demo.num_steps} steps" for demo in inspection.demos if demo.num_steps > limit]
    return found(
        f"{counted(where, 'demonstration')} longer than an evaluation lasts ({limit} steps)",
        where,
        "A policy that imitates their pace is cut off before it ends. Leave them out, or regenerate without no-ops.",
    )


def _failed(inspection: Inspection) -> Findings:
    where = [str(demo.id) for demo in inspection.demos if not demo.success]
    return found(
        f"{counted(where, 'demonstration')} ended without success",
        where,
        "Imitating failures teaches failing. Regenerate: scripts/regenerate_libero.py drops them.",
    )


def _identical(inspection: Inspection) -> Findings:
    groups: defaultdict[str, list[DemoFacts]] = defaultdict(list)
    for demo in inspection.demos:
        groups[demo.digest].append(demo)
    same = [group for group in groups.values() if len(group) > 1]
    where = [", ".join(_with_split(group)) for group in same]
    return found(
        f"{len(same)} {'action sequence is' if len(same) == 1 else 'action sequences are'} there more than once",
        where,
        "Copies weigh double in training, and a copy in the test split makes its loss worthless. Remove all but one.",
    )


# ------------------------------------------------------------------ split, language, evaluation


def _split(inspection: Inspection) -> Findings:
    split = inspection.known.split
    if split is None:
        return ()
    here = {demo.id for demo in inspection.demos}
    both, named = set(split.train) & set(split.test), set(split.train) | set(split.test)
    kinds: tuple[tuple[str, Iterable[EpisodeId]], ...] = (
        ("in train and in test", both),
        ("in the split and not in the files", named - here),
        ("in the files and not in the split", here - named),
    )
    where = [f"{text}: {listed(sorted(map(str, ids)))}" for text, ids in kinds if ids]
    return found(
        "Split and demonstrations do not fit together",
        where,
        "The split was made for other files. Run the command again without --data, so that each stage follows from "
        "the one before.",
    )


def _sentences(inspection: Inspection) -> Findings:
    where = [
        f"task {task.task_id}: {task.instruction!r}; evaluation says {instruction(task.name)!r}"
        for task in inspection.tasks
        if task.instruction != instruction(task.name)
    ]
    return found(
        f"The instruction differs from the evaluation's sentence in {counted(where, 'task')}",
        where,
        "The policy would be trained on words that it never hears. Use libero_utils.instruction(task name).",
    )


def _same_words(inspection: Inspection) -> Findings:
    groups: defaultdict[str, list[TaskFacts]] = defaultdict(list)
    for task in inspection.tasks:
        groups[task.instruction].append(task)
    where = [
        f"{text!r}: tasks {', '.join(str(task.task_id) for task in tasks)}"
        for text, tasks in groups.items()
        if len(tasks) > 1
    ]
    return found(
        "Different tasks have the same instruction",
        where,
        "No policy can tell them apart by language; expect it to do either.",
    )


def _near_starts(inspection: Inspection) -> Findings:
    where = [
        f"{demo.id}: {1000 * demo.start_distance_m:.2f} mm"
        for demo in inspection.demos
        if demo.start_distance_m is not None and demo.start_distance_m < MIN_START_DISTANCE_M
    ]
    return found(
        f"{counted(where, 'demonstration')} within {1000 * MIN_START_DISTANCE_M:g} mm of an evaluation start",
        where,
        "Evaluation there tests memory. Make these demonstrations again with another data.seed.",
    )


# ------------------------------------------------------------------ helpers


def _with_split(copies: Sequence[DemoFacts]) -> list[str]:
    """Two copies, of different splits where there are such, and how many more."""
    other = next((demo for demo in copies if demo.split != copies[0].split), copies[1])
    names = [f"{demo.id} ({demo.split})" if demo.split else str(demo.id) for demo in (copies[0], other)]
    return [*names, f"{len(copies) - 2} more"] if len(copies) > 2 else names


_CHECKS: dict[str, Find] = {
    "gripper commands are -1 or +1": action_checks.gripper_values,
    "the gripper closes": action_checks.gripper_closes,
    "every action dimension moves": action_checks.still_dimensions,
    f"at most {action_checks.CLIPPED_SHARE:.0%} of a task's actions are clipped": action_checks.clipped,
    "no no-op steps": action_checks.noops,
    "no blank or dark images": image_checks.blank,
    "no frozen images": image_checks.frozen,
    "one image size": image_checks.sizes,
    "one environment": image_checks.environments,
    "lengths like the task's median": _lengths,
    "no longer than an evaluation": _limit,
    "every demonstration succeeds": _failed,
    "no copies": _identical,
    "the split fits": _split,
    "instructions are the evaluation's": _sentences,
    "every task has its own instruction": _same_words,
    "starts are not the evaluation's": _near_starts,
}
