"""Small annotation files as the rules annotator writes them: several demonstrations, six steps each."""

import json

from configs.choices import Subset
from data_pipeline.contract import Annotation, BoundingBox, EpisodeId, StepReasoning
from data_pipeline.sidecar import save_annotations

TASK = "put the alphabet soup in the basket"
PLAN = "reach the alphabet soup, grasp, carry to the basket, place in the basket"
BOXES = (BoundingBox("alphabet soup", 1, 2, 30, 40), BoundingBox("basket", 100, 100, 150, 150))
SEGMENTS = (
    ("the gripper is empty", "reach the alphabet soup", "it is {} cm left and 11 cm below", "move left down"),
    ("it is held and lifted", "carry the alphabet soup to the basket", "the basket is {} cm right", "move right"),
    ("it is near its place", "place the alphabet soup in the basket", "it is where it belongs", "open gripper"),
)


def reasoned(demo, task=0, why="the gripper is empty"):
    """One episode of six steps, two per segment."""
    steps = [
        StepReasoning(
            TASK,
            PLAN,
            BOXES,
            why if number == 0 else reason,
            subtask,
            move_reason.format(20 - 3 * step - demo % 3),
            move,
            ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10)),
        )
        for number, (reason, subtask, move_reason, move) in enumerate(SEGMENTS)
        for step in range(2)
    ]
    return Annotation(EpisodeId(Subset.OBJECT, task, demo), tuple(steps), {"plan": "rules", "visible_objects": "sim"})


def write_reasoned(path, demos=3, tasks=1, distinct=True):
    """annotations.json of `demos` demonstrations for each task; `distinct`: no two ask the same question."""
    words = ("empty", "free", "bare", "idle", "ready", "open now", "unladen", "vacant", "not busy", "waiting")
    entries = {}
    for task in range(tasks):
        for demo in range(demos):
            why = f"the gripper is {words[demo % 10]}{' still' * (demo // 10)}" if distinct else "the gripper is empty"
            annotation = reasoned(demo, task, why)
            entries[annotation.episode] = annotation
    save_annotations(path, entries)
    return json.loads(path.read_text())
