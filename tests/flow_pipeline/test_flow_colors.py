"""Colours of flow: the hue is the direction in the image, the saturation the length, grey is unknown."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from flow_pipeline.flow_colors import BEYOND, UNKNOWN, error_colors, error_scale, flow_colors, round_scale, wheel


def hue_degrees(color: np.ndarray) -> float:
    return 360 * colorsys.rgb_to_hsv(*(color / 255))[0]


@pytest.mark.parametrize(
    ("direction", "low", "high"),
    [((1, 0), -1, 1), ((0, 1), 45, 60), ((-1, 0), 180, 200), ((0, -1), 255, 275)],
    ids=["right is red", "down is yellow", "left is cyan", "up is violet"],
)
def test_the_hue_is_the_direction(direction: tuple[int, int], low: float, high: float) -> None:
    color = flow_colors(np.array(direction, np.float32) * 10, 10.0)
    assert low <= hue_degrees(color) <= high


def test_the_saturation_is_the_length_and_beyond_the_scale_it_is_darker() -> None:
    flow = np.zeros((6, 2), np.float32)
    flow[:, 0] = [0, 2, 5, 10, 10.01, 40]
    colors = flow_colors(flow, 10.0)
    assert colors[:4].tolist() == [[255, 255, 255], [255, 204, 204], [255, 128, 128], [255, 0, 0]]
    assert (colors[4:] == [round(255 * BEYOND), 0, 0]).all()


def test_the_hue_goes_round_without_a_step() -> None:
    angle = np.linspace(0, 2 * np.pi, 721)
    colors = flow_colors(np.stack([np.cos(angle), np.sin(angle)], -1), 1.000001).astype(int)
    assert np.abs(np.diff(colors, axis=0)).max() <= 15
    assert colors[0].tolist() == colors[-1].tolist()


def test_what_is_unknown_is_grey() -> None:
    flow = np.array([[np.nan, 0], [0, np.inf], [3, 0], [3, 0]], np.float32)
    colors = flow_colors(flow, 10.0, np.array([True, True, False, True]))
    assert colors[:3].tolist() == [list(UNKNOWN)] * 3
    assert colors[3].tolist() != list(UNKNOWN)
    assert error_colors(np.array([np.nan]), 5.0).tolist() == [list(UNKNOWN)]


def test_the_legend_shows_what_the_picture_shows() -> None:
    legend = wheel(101, (1, 2, 3))
    assert legend[0, 0].tolist() == [1, 2, 3]
    assert legend[50, 50].tolist() == [255, 255, 255]
    for row, column, direction in ((50, 100, (1, 0)), (100, 50, (0, 1)), (50, 0, (-1, 0)), (0, 50, (0, -1))):
        shown = flow_colors(np.array(direction) * 7 * 100 / 101, 7.0)
        assert legend[row, column].tolist() == shown.tolist()


def test_errors_get_darker_and_stop_at_the_end_of_the_scale() -> None:
    scale = error_scale(64, 3)
    assert scale.shape == (3, 64, 3)
    luminance = scale[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) < 0).all()
    assert error_colors(np.array([5.0, 50.0]), 5.0).tolist() == [scale[0, -1].tolist()] * 2


@pytest.mark.parametrize(("value", "end"), [(0.0, 1), (1.0, 1), (1.2, 2), (20.0, 20), (20.5, 50), (64, 100)])
def test_scales_end_at_round_numbers(value: float, end: float) -> None:
    assert round_scale(value) == end
