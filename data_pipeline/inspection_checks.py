"""What may be wrong with demonstrations: Inspection -> findings, each with the values and what to do.

One function per check; every one is run and named on the page, also where it finds nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from configs.choices import Normalization
from data_pipeline.action_stats import DIMENSIONS, GRIPPER, MASK, ActionStatistics, to_nora
from data_pipeline.contract import AGENTVIEW, GRIPPER_CLOSE, GRIPPER_OPEN, WRIST, EpisodeId
from data_pipeline.demo_outcomes import MIN_START_DISTANCE_M
from data_pipeline.findings import Check, Findings, counted, found, listed
from data_pipeline.inspection import DemoFacts, Inspection, TaskFacts, seconds
from data_pipeline.libero_utils import MAX_STEPS, instruction

CAMERA_NAMES = {AGENTVIEW: "agentview", WRIST: "wrist camera"}
STILL_RANGE = 0.01
"""A dimension whose q99 - q01 is below it (0.5 mm or 5 mrad per step) is almost constant."""
CLIPPED_SHARE = 0.05
"""Bounds at q01 and q99 clip 2 % of the subset; a task with more than this has actions of its own."""
DARK = 8.0  # mean brightness of 255
MOVING_M = 0.005
"""A hand that moves so far in one step (10 cm/s) changes pixels of either camera."""
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
        _clipped: ("no statistics", known.statistics is not None),
        _split: ("no split", known.split is not None),
        _environments: ("the files do not name their environment", bool(inspection.fingerprints)),
        _near_starts: ("distances are known of the expert's demonstrations only (demos.json)", starts),
    }
    return {find: why for find, (why, present) in there.items() if not present}


# ------------------------------------------------------------------ actions


def _gripper_values(inspection: Inspection) -> Findings:
    where: list[str] = []
    for demo in inspection.demos:
        gripper = demo.actions[:, GRIPPER]
        strange = gripper[~np.isin(gripper, (GRIPPER_OPEN, GRIPPER_CLOSE))]
        if len(strange):
            where.append(f"{demo.id}: {len(strange)} steps, e.g. {strange[0]:g}")
    return found(
        f"The gripper command is neither -1 (open) nor +1 (close) in {counted(where, 'demonstration')}",
        where,
        "Training reads -1 as open and +1 as close and takes what lies between as a mixture. Map the source's gripper "
        "to -1 and +1 (0/1 data: 2 x - 1) before it comes here.",
    )


def _gripper_closes(inspection: Inspection) -> Findings:
    never = [
        f"task {task.task_id} ({task.instruction}): {sum(not d.closed.any() for d in task.demos)} of {len(task.demos)}"
        for task in inspection.tasks
        if any(not demo.closed.any() for demo in task.demos)
    ]
    return found(
        f"The gripper never closes in demonstrations of {counted(never, 'task')}",
        never,
        "Right for pushing, opening or turning with open fingers; for picking up, the gripper's sign is wrong or the "
        "demonstration is not one of this task.",
    )


def _still_dimensions(inspection: Inspection) -> Findings:
    low, high = np.quantile(inspection.actions, (0.01, 0.99), axis=0)
    still = [i for i in range(GRIPPER) if high[i] - low[i] < STILL_RANGE]
    where = [f"{DIMENSIONS[i]}: q01 {low[i]:.4f}, q99 {high[i]:.4f}" for i in still]
    return found(
        f"{', '.join(DIMENSIONS[i] for i in still)} hardly moves in 98 % of all steps",
        where,
        "Normalising by q01 and q99 stretches such noise to [-1, 1]. Keep action.half_range_floor at 0.3 (in action "
        "units), or find out why the robot never moves that way.",
    )


def clipped_share(actions: np.ndarray, statistics: ActionStatistics) -> np.ndarray:
    """Share of actions [N, 7] that normalising clips, per dimension: float64 [7]; 0 for the gripper."""
    if statistics.mode is Normalization.NORMAL:
        return np.zeros(actions.shape[1])
    actions = to_nora(actions)
    slack = 1e-6  # actions are float32 and bounds float64
    outside = (actions < statistics.low - slack) | (actions > statistics.high + slack)
    return np.where(MASK, outside.mean(axis=0), 0.0)


def _clipped(inspection: Inspection) -> Findings:
    statistics = inspection.known.statistics
    where: list[str] = []
    for task in inspection.tasks:
        share = clipped_share(task.actions, statistics) if statistics is not None else np.zeros(GRIPPER)
        where += [f"task {task.task_id} {DIMENSIONS[i]}: {share[i]:.1%}" for i in np.flatnonzero(share > CLIPPED_SHARE)]
    return found(
        f"Normalising clips more than {CLIPPED_SHARE:.0%} of a task's actions",
        where,
        "Bounds at q01 and q99 clip 2 % on average; what is clipped the policy cannot say, and it moves slower there. "
        "Look at the task's histograms: a few more per cent are a task with motions of its own; many mean statistics "
        "of other data, or a half range floor (action.half_range_floor) below what this task needs.",
    )


def _noops(inspection: Inspection) -> Findings:
    where = [f"{demo.id}: {demo.noops} of {demo.num_steps} steps" for demo in inspection.demos if demo.noops]
    return found(
        f"{sum(d.noops for d in inspection.demos)} no-op steps are left in {counted(where, 'demonstration')}",
        where,
        "A policy that imitates a pause can stop there for ever. Regenerate the demonstrations: "
        "scripts/regenerate_libero.py leaves no-op steps out.",
    )


# ------------------------------------------------------------------ images


def _blank(inspection: Inspection) -> Findings:
    where: list[str] = []
    for demo in inspection.demos:
        for camera, pixels in demo.pixels.items():
            if pixels.scan.flat:
                where.append(f"{demo.id} {_steps(camera, pixels.scan.flat)}")
            elif pixels.brightness < DARK:
                where.append(f"{demo.id} {CAMERA_NAMES[camera]}: mean brightness {pixels.brightness:.1f} of 255")
    return found(
        f"Images are of a single colour or almost black in {counted(where, 'demonstration')}",
        where,
        "The renderer failed there. Check it with `nora-ecot doctor`, then make or download these demonstrations anew.",
    )


def moved(demo: DemoFacts, step: int) -> float:
    """How far the hand moved from the step before, m."""
    return float(np.linalg.norm(demo.position[step] - demo.position[step - 1]))


def _frozen(inspection: Inspection) -> Findings:
    where: list[str] = []
    for demo in inspection.demos:
        for camera, pixels in demo.pixels.items():
            frozen = [step for step in pixels.scan.repeated if moved(demo, step) > MOVING_M]
            if frozen:
                where.append(f"{demo.id} {_steps(camera, frozen)}")
    return found(
        f"Images stand still while the hand moves more than {1000 * MOVING_M:g} mm per step, in "
        f"{counted(where, 'demonstration')}",
        where,
        "Images and states are out of step. Regenerate the demonstrations with scripts/regenerate_libero.py.",
    )


def _sizes(inspection: Inspection) -> Findings:
    sizes = inspection.resolutions
    return found(
        f"Images have {len(sizes)} sizes",
        sizes if len(sizes) > 1 else (),
        "Everything is resized for the policy, but sharpness then differs between demonstrations. Regenerate all "
        "with one --image_resolution.",
    )


def _environments(inspection: Inspection) -> Findings:
    prints = inspection.fingerprints
    keys = sorted({key for one in prints for key in one})
    differing = [key for key in keys if len({str(one.get(key)) for one in prints}) > 1]
    return found(
        f"Images come from {len(prints)} different environments",
        [f"{key}: {' | '.join(str(one.get(key)) for one in prints)}" for key in differing],
        "Assets, look and simulator change what the policy sees. Regenerate all demonstrations in one environment.",
    )


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


def _steps(camera: str, steps: Sequence[int]) -> str:
    return f"{CAMERA_NAMES[camera]}: {counted(steps, 'frame')}, first at step {steps[0]}"


_CHECKS: dict[str, Find] = {
    "gripper commands are -1 or +1": _gripper_values,
    "the gripper closes": _gripper_closes,
    "every action dimension moves": _still_dimensions,
    f"at most {CLIPPED_SHARE:.0%} of a task's actions are clipped": _clipped,
    "no no-op steps": _noops,
    "no blank or dark images": _blank,
    "no frozen images": _frozen,
    "one image size": _sizes,
    "one environment": _environments,
    "lengths like the task's median": _lengths,
    "no longer than an evaluation": _limit,
    "every demonstration succeeds": _failed,
    "no copies": _identical,
    "the split fits": _split,
    "instructions are the evaluation's": _sentences,
    "every task has its own instruction": _same_words,
    "starts are not the evaluation's": _near_starts,
}
