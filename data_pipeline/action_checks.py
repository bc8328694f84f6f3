"""What may be wrong with the actions of demonstrations. See `inspection_checks`."""

from __future__ import annotations

import numpy as np

from configs.choices import Normalization
from data_pipeline.action_stats import DIMENSIONS, GRIPPER, MASK, ActionStatistics, to_nora
from data_pipeline.contract import GRIPPER_CLOSE, GRIPPER_OPEN
from data_pipeline.findings import Findings, counted, found
from data_pipeline.inspection import Inspection

STILL_RANGE = 0.01
"""A dimension whose q99 - q01 is below it (0.5 mm or 5 mrad per step) is almost constant."""
CLIPPED_SHARE = 0.05
"""Bounds at q01 and q99 clip 2 % of the subset; a task with more than this has actions of its own."""


def gripper_values(inspection: Inspection) -> Findings:
    """Gripper commands that are neither open nor closed."""
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


def gripper_closes(inspection: Inspection) -> Findings:
    """Demonstrations in which the gripper never closes."""
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


def still_dimensions(inspection: Inspection) -> Findings:
    """Dimensions that hardly move in all tasks together."""
    low, high = np.quantile(inspection.actions, (0.01, 0.99), axis=0)
    still = [i for i in range(GRIPPER) if high[i] - low[i] < STILL_RANGE]
    where = [f"{DIMENSIONS[i]}: q01 {low[i]:.4f}, q99 {high[i]:.4f}" for i in still]
    return found(
        f"{', '.join(DIMENSIONS[i] for i in still)} hardly moves in 98 % of all steps",
        where,
        "Normalising by q01 and q99 stretches such noise to [-1, 1]. Keep action.half_range_floor at 0.3 (in action "
        "units), or find out why the robot never moves that way.",
    )


def clipped(inspection: Inspection) -> Findings:
    """Tasks with many actions beyond the subset's bounds; nothing without statistics."""
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


def noops(inspection: Inspection) -> Findings:
    """Steps in which the robot does nothing."""
    where = [f"{demo.id}: {demo.noops} of {demo.num_steps} steps" for demo in inspection.demos if demo.noops]
    return found(
        f"{sum(d.noops for d in inspection.demos)} no-op steps are left in {counted(where, 'demonstration')}",
        where,
        "A policy that imitates a pause can stop there for ever. Regenerate the demonstrations: "
        "scripts/regenerate_libero.py leaves no-op steps out.",
    )


def clipped_share(actions: np.ndarray, statistics: ActionStatistics) -> np.ndarray:
    """Share of actions [N, 7] that normalising clips, per dimension: float64 [7]; 0 for the gripper."""
    if statistics.mode is Normalization.NORMAL:
        return np.zeros(actions.shape[1])
    actions = to_nora(actions)
    slack = 1e-6  # actions are float32 and bounds float64
    outside = (actions < statistics.low - slack) | (actions > statistics.high + slack)
    return np.where(MASK, outside.mean(axis=0), 0.0)
