"""Films and pages of chains of thought: what is drawn lies where it is said, and text is only text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from configs.choices import Subset
from data_pipeline.contract import Annotation, BoundingBox, EpisodeId, StepReasoning
from data_pipeline.reasoning_film import BAR, PICTURE, SIZE, drawn, stretches, write_reasoning_film
from data_pipeline.reasoning_page import Filmed, render_reasoning_page
from tests.helpers.reasoned import reasoned

STEPS = reasoned(0).steps
RED, BLUE = (255, 60, 60), (31, 111, 235)


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture[:PICTURE, :PICTURE] == colour).all(-1))


def test_boxes_and_the_gripper_are_drawn_in_the_policys_frame() -> None:
    frame = np.zeros((128, 128, 3), np.uint8)
    step = replace(STEPS[0], visible_objects=(BoundingBox("soup", 64, 128, 127, 191),), gripper=((10, 20), (10, 200)))  # type: ignore[arg-type]
    picture = drawn(frame, [step], 0, (200, 20), "object/00/000")
    assert picture.shape == (SIZE[1], SIZE[0], 3)
    scale = PICTURE / 256
    rows, columns = where(picture, BLUE).T
    assert (columns.min(), columns.max()) == (64 * scale, 128 * scale - 1)
    assert rows.max() == 192 * scale - 1
    rows, columns = where(picture, RED).T
    assert abs(columns.max() - 200.5 * scale) <= 5
    assert abs(rows.max() - 200.5 * scale) <= 4


def test_segments_follow_the_subtasks_and_gaps() -> None:
    parts = stretches((*STEPS[:4], None, None, *STEPS[4:]))
    assert [(p.start, p.stop, p.step is None) for p in parts] == [
        (0, 2, False),
        (2, 4, False),
        (4, 6, True),
        (6, 8, False),
    ]


def test_the_mark_moves_along_the_bar() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    marks = [np.argwhere((drawn(frame, STEPS, t, None, "x")[-BAR] == (30, 34, 40)).all(-1)).mean() for t in (0, 3, 5)]
    assert marks[0] < marks[1] < marks[2]
    assert "no glyph" not in str(drawn(frame, [None], 0, None, "夹爪").shape)  # neither a gap nor Chinese stops it


def test_a_film_has_every_other_step_and_equal_bytes(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), np.uint8)
    now = np.tile([5, 5], (6, 1))
    for name in ("a.mp4", "b.mp4"):
        write_reasoning_film(tmp_path / name, frames, STEPS, now, "object/00/000")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))
    assert (count, round(seconds, 1)) == (3, 0.3)


def test_the_page_names_every_segment_and_escapes_what_models_wrote() -> None:
    wicked: list[StepReasoning | None] = [replace(s, plan="<script>alert(1)</script>") for s in STEPS if s]
    annotation = Annotation(EpisodeId(Subset.OBJECT, 0, 3), (*wicked, None), {})
    page = render_reasoning_page("Chains", ["3 demos"], ["tokens <b>"], [Filmed("pick <it>", annotation, "a.mp4")])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "tokens &lt;b&gt;" in page
    assert 'src="a.mp4"' in page
    assert "0 to 1" in page
    assert "carry the alphabet soup to the basket" in page
    assert "no reasoning" in page
    assert "<pre>" not in render_reasoning_page("Chains", [], [], [])
