"""What the rules say of real demonstrations of all four suites: read by people, kept, renewed only by --renew-golden.

golden/tracks.npz holds what the simulator knew of them (`python -m tests.helpers.tracks` makes it from demonstrations).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.contract import StepReasoning
from data_pipeline.ecot_annotator import annotate
from data_pipeline.llm_annotator import demos_of
from data_pipeline.llm_prompts import Question
from data_pipeline.scene import SceneTrack
from data_pipeline.segments import segment
from data_pipeline.sidecar import save_annotations
from experiment.rewording import TYPICAL
from tests.helpers.tracks import load_tracks

GOLDEN = Path(__file__).parent / "golden"
HORIZON = 12
OPPOSITES = (("left", "right"), ("ahead", "backward"), ("behind", "forward"), ("above", "down"), ("below", "up"))


@cache
def annotated() -> list[tuple[SceneTrack, tuple[StepReasoning, ...]]]:
    return [(track, annotate(track, HORIZON).steps) for track in load_tracks(GOLDEN / "tracks.npz")]


def steps() -> Iterator[StepReasoning]:
    return (step for _, said in annotated() for step in said)


def test_golden_texts(renew_golden: bool) -> None:
    lines: list[str] = []
    for track, said in annotated():
        lines += [f"== {track.episode}: {track.instruction}", f"TASK {said[0].task}", f"PLAN {said[0].plan}"]
        for part in segment(track):
            lines.append(f"{said[part.start].subtask}, because {said[part.start].subtask_reasoning}")
            at = sorted({part.start, (part.start + part.stop) // 2, part.stop - 1})
            texts = [f"{said[t].move}, because {said[t].move_reasoning}" for t in at]
            lines += [
                f"{t:>5} {text}" for n, (t, text) in enumerate(zip(at, texts, strict=True)) if text not in texts[:n]
            ]
    path = GOLDEN / "texts.txt"
    text = "\n".join(lines) + "\n"
    if renew_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "renew with --renew-golden and read the diff"


def test_fifty_of_all_tasks_of_all_suites_and_every_kind_of_goal_are_among_them() -> None:
    tracks = [track for track, _ in annotated()]
    assert len(tracks) == 50
    tasks = {(track.episode.subset.value, track.episode.task_id) for track in tracks}
    assert tasks == {(suite, task) for suite in ("spatial", "object", "goal", "long") for task in range(10)}
    assert {goal.predicate for track in tracks for goal in track.goals} == {"on", "in", "open", "close", "turnon"}
    assert {part.kind for track in tracks for part in segment(track)} >= {"set aside", "push", "reach handle", "close"}


def test_no_text_reads_badly() -> None:
    bad = re.compile(r"\b0 (cm|degrees)|\b1 degrees|\bmove stop|(\b\w+\b) \2\b|  |[{}_]")
    for step in steps():
        for text in (step.task, step.plan, step.subtask_reasoning, step.subtask, step.move_reasoning, step.move):
            assert text
            assert not bad.search(text), text


def test_reasons_and_moves_seldom_point_in_opposite_directions() -> None:
    """They may: an offset is measured now and a move over the next 0.6 s, around what is in the way."""
    pointing = [s for s in steps() if " cm " in s.move_reasoning and s.move.startswith("move")]
    opposed = [
        s
        for s in pointing
        for a, b in (*OPPOSITES, ("right", "left"))
        if a in s.move_reasoning.split() and b in re.split(r"[ ,]+", s.move)
    ]
    assert len(opposed) < 0.05 * len(pointing), [(s.move_reasoning, s.move) for s in opposed[:5]]


def test_a_language_models_questions_are_as_long_as_estimates_say(tmp_path: Path) -> None:
    for subset, (length, room) in TYPICAL.items():
        entries = {t.episode: annotate(t, HORIZON) for t, _ in annotated() if t.episode.subset is subset}
        save_annotations(tmp_path / "annotations.json", entries)
        demos = demos_of(json.loads((tmp_path / "annotations.json").read_text()))
        asked = [Question(demo, demo.items) for demo in demos]
        sent = [sum(len(message["content"].encode()) for message in question.messages()) for question in asked]
        assert np.mean(sent) == pytest.approx(length, rel=0.1)
        assert np.mean([question.max_tokens() for question in asked]) == pytest.approx(room, rel=0.1)


def test_few_moving_steps_are_called_stop() -> None:
    moving = stopped = 0
    for track, said in annotated():
        end = np.minimum(np.arange(track.num_steps) + HORIZON, track.num_steps - 1)
        far = np.linalg.norm(track.grip_position[end] - track.grip_position, axis=-1) > 0.02
        moving += int(far.sum())
        stopped += sum(step.move == "stop" for step, is_far in zip(said, far, strict=True) if is_far)
    assert stopped < 0.1 * moving
