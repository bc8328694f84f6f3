"""The page and the film of flow: the right colours at the right place, only text in text, equal bytes."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from configs.choices import Subset
from data_pipeline.contract import EpisodeId
from flow_pipeline.flow_charts import code_figure, code_grid
from flow_pipeline.flow_checks import run_checks
from flow_pipeline.flow_facts import tally
from flow_pipeline.flow_film import GAP, PICTURE, SIZE, TOP, FilmedFlow, film_pictures, write_flow_film
from flow_pipeline.flow_page import FlowPage, Scales, ShownDemo, ShownStep, render_flow_page
from tests.helpers.flows import GRID, K, moving_hand, tokens_of

EPISODE = EpisodeId(Subset.OBJECT, 0, 0)
FLOW = moving_hand(12)
TOKENS = tokens_of(EPISODE, FLOW)
DECODED = GRID.decode(TOKENS.codes)
FRAMES = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), np.uint8)
SCALES = Scales(12.0, 5.0)
FILMED = FilmedFlow("object/00/000", FRAMES, FLOW.flow.astype(np.float32), DECODED, FLOW.k_effective, K)


def page_with(instruction: str = "pick up the soup") -> FlowPage:
    step = ShownStep(3, K, FRAMES[3], FRAMES[3 + K], FILMED.flow[3], DECODED[3], TOKENS.codes[3])
    tallies = {f"0 {instruction}": tally(FLOW, TOKENS, DECODED, 48.0)}
    demo = ShownDemo("object/00/000", instruction, [step], "flow.mp4", FRAMES[0])
    return FlowPage(
        "Flow", "one", [("backend", "sim")], ["object: <5> px"], tallies, run_checks(tallies, None), [demo], SCALES
    )


def pictures(page: str, alt: str) -> list[np.ndarray]:
    """Embedded pictures of one kind."""
    found = re.findall(rf'alt="{alt}" src="data:image/\w+;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def test_a_hand_that_moves_right_is_red_where_it_is() -> None:
    page = render_flow_page(page_with())
    flow, decoded = pictures(page, "flow")
    assert flow.shape == (32, 32, 3)
    assert (flow[8:16, 4:12] == (255, 0, 0)).all()
    assert (flow[20:] == 255).all()
    red, green, blue = decoded[2, 1].tolist()
    assert red >= 191 > max(green, blue) + 100, "nearly as long, the same way"
    (error,) = pictures(page, "error")
    assert error[20, 20].tolist() != error[10, 8].tolist()
    assert len(pictures(page, "frame")) == 2


def test_the_same_data_give_the_same_page_with_nothing_from_elsewhere() -> None:
    page = render_flow_page(page_with())
    assert page == render_flow_page(page_with())
    assert set(re.findall(r'(?:src|href|poster)="([^":]*:?)', page)) <= {"data:", "flow.mp4"}
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)


def test_words_are_only_words() -> None:
    wicked = replace(page_with("<b>pick</b> & place"), title="<i>", lead="<u>", settings=[("<a>", "<s>")])
    page = render_flow_page(wicked)
    assert not re.search(r"<(i|u|a|s)>|<b>pick", page)
    assert "object: &lt;5&gt; px" in page
    assert "<td>0 &lt;b&gt;pick&lt;/b&gt; &amp; place</td>" in page
    assert "<h3>&lt;b&gt;pick&lt;/b&gt; &amp; place</h3>" in page


def test_the_token_grid_shows_each_code_where_it_is() -> None:
    codes = np.array([0, 7, 310, 0])
    grid = code_grid(codes, np.array([[[0, 0], [0, 0]], [[0, -9], [0, 0]]], np.float32), 9.0)
    assert grid.count(">·</text>") == 2
    assert '<text class="" x="30" y="13">7</text>' in grid
    assert '<text class="light" x="10" y="33">310</text>' in grid, "white on violet"


def test_only_codes_in_use_have_a_bar() -> None:
    used = np.array([90, 0, 4, 6])
    figure = code_figure(used, np.zeros((4, 2)), 5.0)
    assert re.findall(r'class="mid"[^>]*>(\d+)<', figure) == ["3", "2"], "most used first, without the static one"
    assert "static one" in code_figure(np.array([5, 0]), np.zeros((2, 2)), 5.0)


def test_the_film_shows_frame_flow_decoded_and_error() -> None:
    (first,) = film_pictures(FILMED, [3], SCALES)
    assert first.shape == (SIZE[1], SIZE[0], 3)
    middle = TOP + 12 * 8, 8 * 8  # of the hand, from a picture's left
    at = [first[middle[0], GAP + number * (PICTURE + GAP) + middle[1]].tolist() for number in range(4)]
    assert at[1] == [255, 0, 0]
    assert at[2][0] > at[2][1] + 100
    assert (first[TOP + 200, GAP + PICTURE + GAP : GAP + 2 * PICTURE + GAP] == 255).all()


def test_films_have_equal_bytes_and_last_as_long_as_the_demonstration(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_flow_film(tmp_path / name, FILMED, SCALES)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4")) == (6, pytest.approx(0.6))
