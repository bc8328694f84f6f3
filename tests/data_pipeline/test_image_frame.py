"""Images, points, boxes and flow stay together through every change of frame."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.image_frame import (
    ImageFrame,
    convert_boxes,
    convert_flow,
    convert_image,
    convert_points,
    policy_image,
)

HEIGHT, WIDTH = 6, 9
SIZE = (HEIGHT, WIDTH)
frames = st.sampled_from(ImageFrame)
pixels = st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1))


def spot(x: int, y: int) -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 1))
    image[y, x] = 1
    return image


def where(image: np.ndarray) -> np.ndarray:
    """Continuous (x, y) of the one bright pixel's centre."""
    y, x = np.argwhere(image[..., 0])[0]
    return np.array([x + 0.5, y + 0.5])


def test_frames_as_documented() -> None:
    picture = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1)
    np.testing.assert_array_equal(convert_image(picture, ImageFrame.GL, ImageFrame.UPRIGHT), picture[::-1])
    np.testing.assert_array_equal(convert_image(picture, ImageFrame.GL, ImageFrame.ROT180), picture[::-1, ::-1])
    np.testing.assert_array_equal(convert_image(picture, ImageFrame.UPRIGHT, ImageFrame.ROT180), picture[:, ::-1])


@settings(deadline=None)
@given(pixels, frames, frames)
def test_a_point_follows_its_pixel(pixel, source, target) -> None:
    image = convert_image(spot(*pixel), source, target)
    point = convert_points(np.array(pixel) + 0.5, SIZE, source, target)
    np.testing.assert_array_equal(point, where(image))


@settings(deadline=None)
@given(pixels, pixels, frames, frames)
def test_flow_leads_to_where_the_pixel_goes(start, end, source, target) -> None:
    flow = spot(*start) * np.subtract(end, start)
    moved = convert_flow(flow, source, target)
    new_start = convert_points(np.array(start) + 0.5, SIZE, source, target)
    new_end = convert_points(np.array(end) + 0.5, SIZE, source, target)
    x, y = (new_start - 0.5).astype(int)
    np.testing.assert_array_equal(moved[y, x], new_end - new_start)


@settings(deadline=None)
@given(pixels, pixels, frames, frames)
def test_a_box_holds_the_same_pixels(first, second, source, target) -> None:
    low, high = np.minimum(first, second), np.maximum(first, second) + 1
    image = np.zeros((HEIGHT, WIDTH, 1))
    image[low[1] : high[1], low[0] : high[0]] = 1
    x0, y0, x1, y1 = convert_boxes(np.concatenate([low, high]), SIZE, source, target).astype(int)
    converted = convert_image(image, source, target)
    assert converted.sum() == converted[y0:y1, x0:x1].sum() == (x1 - x0) * (y1 - y0)


@pytest.mark.parametrize(("source", "target"), product(ImageFrame, ImageFrame))
def test_there_and_back(source: ImageFrame, target: ImageFrame) -> None:
    rng = np.random.default_rng(0)
    image, flow, points = rng.random((2, HEIGHT, WIDTH, 3)), rng.random((HEIGHT, WIDTH, 2)), rng.random((4, 2))
    np.testing.assert_array_equal(convert_image(convert_image(image, source, target), target, source), image)
    np.testing.assert_array_equal(convert_flow(convert_flow(flow, source, target), target, source), flow)
    back = convert_points(convert_points(points, SIZE, source, target), SIZE, target, source)
    np.testing.assert_allclose(back, points)
    boxes = np.concatenate([points, points + rng.random((4, 2))], axis=1)
    np.testing.assert_allclose(convert_boxes(convert_boxes(boxes, SIZE, source, target), SIZE, target, source), boxes)


def test_policy_image_is_rotated_then_resized_once() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(policy_image(image, 64), image[::-1, ::-1])
    small = policy_image(image, 32)
    assert small.shape == (32, 32, 3)
    assert small.dtype == np.uint8
    blocks = image[::-1, ::-1].reshape(32, 2, 32, 2, 3).mean((1, 3))
    np.testing.assert_allclose(small, blocks, atol=0.51)
    assert policy_image(image, 112).shape == (112, 112, 3)
