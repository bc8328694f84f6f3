"""Stage `annotate`: the chain of thought of every step, by rules, from what the simulator knows.

`annotate` is a pure function of a SceneTrack: the same episode gives the same bytes. Every statement is measured
(offsets, contacts, predicates) or copied from the BDDL goal; nothing is guessed from pictures. Of a recording without
simulator states only what `proprioception` knows is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.slices import AnnotateSlice
from data_pipeline.contract import Annotation, BoundingBox, Episode, EpisodeId, StageContext, StepReasoning
from data_pipeline.ecot_words import Words, arrivals
from data_pipeline.gripper_positions import future_track, to_grid
from data_pipeline.measured import measured, measured_by_the_robot
from data_pipeline.primitive_movements import movement_primitives
from data_pipeline.proprioception import ABSENT, annotate_recording
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.scene import SceneTrack
from data_pipeline.segments import segment
from data_pipeline.sidecar import merge_annotations, save_annotations
from data_pipeline.sim.pool import run_jobs

if TYPE_CHECKING:
    from data_pipeline.sim.features import Replayer

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

    Says in one line how many demonstrations have no simulator states, and what is absent there.
    """
    folder = context.inputs["regenerate"]
    parts = context.work / "parts"
    parts.mkdir(exist_ok=True)
    source = Hdf5Source(folder, config.subset)
    jobs = [_Job(e, parts / (str(e).replace("/", "_") + ".json")) for e in source.list()]
    unknown = sum(source.open(job.episode).states is None for job in jobs)
    if unknown:
        lacking = ", ".join(sorted(c.value for c in ABSENT))
        print(
            f"{unknown} of {len(jobs)} demonstrations of {config.subset.value} have no simulator states: annotated "
            f"from proprioception alone; absent there, never invented: {lacking}"
        )
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
        self._config = config
        self._source = Hdf5Source(folder, config.subset)
        self._replayer: Replayer | None = None

    def run(self, job: _Job) -> None:
        episode, horizon = self._source.open(job.episode), self._config.annotator.move_horizon
        if episode.states is None:
            annotation, further = annotate_recording(episode, horizon), measured_by_the_robot(episode)
        else:
            track = self._track(episode)
            annotation, further = annotate(track, horizon), _measured(track)
        files, known = {episode.id: self._source.path(episode.id.task_id).name}, {episode.id: further}
        save_annotations(job.part, {episode.id: annotation}, files=files, measured=known)

    def close(self) -> None:
        if self._replayer is not None:
            self._replayer.close()

    def _track(self, episode: Episode) -> SceneTrack:
        if self._replayer is None:
            from data_pipeline.sim.features import Replayer  # the simulator only where it is needed

            self._replayer = Replayer(self._config.env)
        return self._replayer.track(episode)


def _measured(track: SceneTrack) -> dict[str, Any]:
    segments, words = segment(track), Words.of(track)
    return measured(track, segments, [words.subtask(part) for part in segments])


# ------------------------------------------------------------------ one episode


def annotate(track: SceneTrack, move_horizon: int) -> Annotation:
    """The reasoning of every step. move_horizon: steps over which a movement primitive is measured."""
    moves = movement_primitives(
        track.grip_position, track.grip_rotation, track.gripper_command, track.finger_opening, move_horizon
    )
    segments = segment(track)
    words = Words.of(track)
    names = names_in_picture(words.labels, track.instruction)
    task, plan = words.task(segments), words.plan(segments)
    steps = [
        StepReasoning(
            task=task,
            plan=plan,
            visible_objects=visible_objects(track, names, t),
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


def names_in_picture(labels: tuple[str, ...], instruction: str) -> tuple[str, ...]:
    """The labels; of the thing that an instruction tells apart from others of its kind, with the words that do so."""

    def told_apart(name: str) -> str:
        found = re.match(rf"pick up the ({re.escape(name)} (?!and ).+) and place it ", instruction)
        return found[1] if found else name

    return tuple(map(told_apart, labels))


def visible_objects(track: SceneTrack, labels: tuple[str, ...], step: int) -> tuple[BoundingBox, ...]:
    """Boxes of what can be seen: the grid cells that its visible pixels touch."""
    boxes = []
    for name, box, visible in zip(labels, track.box[step], track.visible[step], strict=True):
        if visible >= MIN_VISIBLE and not np.isnan(box).any():
            first, last = to_grid(box[:2]), to_grid(np.ceil(box[2:]) - 1)
            boxes.append(BoundingBox(name, *map(int, (*first, *last)), visible=float(visible)))
    return tuple(boxes)
