"""Stage `annotate`: the chain of thought of every step, by rules, from what the simulator knows.

`annotate` is a pure function of a SceneTrack: the same episode gives the same bytes. Every statement is measured
(offsets, contacts, predicates) or copied from the BDDL goal; nothing is guessed from pictures.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from configs.slices import AnnotateSlice
from data_pipeline.contract import Annotation, BoundingBox, EpisodeId, StageContext, StepReasoning
from data_pipeline.ecot_words import Words, arrivals
from data_pipeline.gripper_positions import future_track, to_grid
from data_pipeline.primitive_movements import movement_primitives
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.scene import SceneTrack
from data_pipeline.segments import segment
from data_pipeline.sidecar import Measured, merge_annotations, save_annotations
from data_pipeline.sim.pool import run_jobs

MIN_VISIBLE = 0.1  # of an object's silhouette, for it to be listed
SOURCE = {
    "task": "rules",
    "plan": "rules",
    "visible_objects": "sim",
    "subtask_reasoning": "rules",
    "subtask": "rules",
    "move_reasoning": "rules",
    "move": "rules",
    "gripper": "sim",
}


# ------------------------------------------------------------------ the stage


def run_annotate(config: AnnotateSlice, context: StageContext) -> list[str]:
    """Stage `annotate`: regenerate -> annotations.json. Finished episodes of an interrupted attempt are kept.

    Raises EnvironmentProblem where an episode has no simulator states.
    """
    folder = context.inputs["regenerate"]
    parts = context.work / "parts"
    parts.mkdir(exist_ok=True)
    with contextlib.closing(Hdf5Source(folder, config.subset)) as source:
        jobs = [_Job(e, parts / (str(e).replace("/", "_") + ".json")) for e in source.list()]
    run_jobs(jobs, partial(_Worker, config, folder), config.workers, context, lambda job: str(job.episode))
    merge_annotations(context.work / "annotations.json", [job.part for job in jobs])
    return ["annotations.json"]


@dataclass(frozen=True)
class _Job:
    """One episode."""

    episode: EpisodeId
    part: Path  # its annotations, alone

    @property
    def done(self) -> bool:
        return self.part.exists()


class _Worker:
    """Annotates episodes; keeps the environment of the last task."""

    def __init__(self, config: AnnotateSlice, folder: Path) -> None:
        from data_pipeline.sim.features import Replayer  # the simulator only where it is needed

        self._source = Hdf5Source(folder, config.subset)
        self._replayer = Replayer(config.env)
        self._horizon = config.annotator.move_horizon

    def run(self, job: _Job) -> None:
        track = self._replayer.track(self._source.open(job.episode))
        _save(job.part, track, annotate(track, self._horizon))

    def close(self) -> None:
        self._replayer.close()
        self._source.close()


def _save(path: Path, track: SceneTrack, annotation: Annotation) -> None:
    episode = annotation.episode
    known = Measured(track.grip_position, to_grid(track.grip_point), track.grip_visible)
    save_annotations(path, {episode: annotation}, files={episode: track.file}, measured={episode: known})


# ------------------------------------------------------------------ one episode


def annotate(track: SceneTrack, move_horizon: int) -> Annotation:
    """The reasoning of every step. move_horizon: steps over which a movement primitive is measured."""
    moves = movement_primitives(
        track.grip_position, track.grip_rotation, track.gripper_command, track.finger_opening, move_horizon
    )
    segments = segment(track)
    words = Words.of(track)
    task, plan = words.task(segments), words.plan(segments)
    steps = [
        StepReasoning(
            task=task,
            plan=plan,
            visible_objects=visible_objects(track, words.labels, t),
            subtask_reasoning=words.subtask_reasoning(part),
            subtask=words.subtask(part),
            move_reasoning=words.move_reasoning(track, part, t, moves[t], end),
            move=moves[t],
            gripper=future_track(track.grip_point, t),
        )
        for part, end in zip(segments, arrivals(segments, track.num_steps), strict=True)
        for t in range(part.start, part.stop)
    ]
    return Annotation(track.episode, tuple(steps), SOURCE)


def visible_objects(track: SceneTrack, labels: tuple[str, ...], step: int) -> tuple[BoundingBox, ...]:
    """Boxes of what can be seen: the grid cells that its visible pixels touch."""
    boxes = []
    for name, box, visible in zip(labels, track.box[step], track.visible[step], strict=True):
        if visible >= MIN_VISIBLE and not np.isnan(box).any():
            first, last = to_grid(box[:2]), to_grid(np.ceil(box[2:]) - 1)
            boxes.append(BoundingBox(name, *map(int, (*first, *last)), visible=float(visible)))
    return tuple(boxes)
