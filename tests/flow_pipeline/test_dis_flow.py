"""Chained DIS on made pictures: the motion over many steps, what leaves, what is covered, odd sizes and lengths."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from flow_pipeline.dis_flow import dis_chain


def texture(size: int, seed: int = 0) -> np.ndarray:
    """uint8 [size, size, 3]: smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)


def sliding_texture(steps: int, size: int, shift: tuple[int, int]) -> np.ndarray:
    """uint8 [steps, size, size, 3]: it moves by `shift` pixels (x, y) per step."""
    whole, margin = texture(2 * size), size // 2
    starts = [(margin - t * shift[1], margin - t * shift[0]) for t in range(steps)]
    return np.stack([whole[r : r + size, c : c + size] for r, c in starts])


def test_chained_dis_follows_a_slide_over_eight_steps() -> None:
    fields = list(dis_chain(sliding_texture(10, 128, (2, -1)), 8))
    assert len(fields) == 10
    centre = fields[0].flow_px[40:88, 40:88]
    np.testing.assert_allclose(centre.reshape(-1, 2).mean(0), [16, -8], atol=0.5)
    np.testing.assert_allclose(fields[8].flow_px[40:88, 40:88].reshape(-1, 2).mean(0), [2, -1], atol=0.2)
    assert not fields[9].flow_px.any()
    assert not fields[0].valid[:7].any()
    assert not fields[0].valid[:, -15:].any()


def test_what_a_square_covers_is_occluded_and_the_rest_is_not() -> None:
    """It slides over a still ground by 3 px a step; between its front at the start and at the end, ground vanishes."""
    frames = np.stack([texture(128)] * 6)
    square = texture(40, seed=1)
    for t, frame in enumerate(frames):
        frame[44:84, 20 + 3 * t : 60 + 3 * t] = square
    field = next(dis_chain(frames, 5))
    covered = field.occluded[48:80, 62:73]
    assert covered.mean() > 0.7
    assert field.occluded[:30].mean() < 0.02
    assert field.occluded[50:78, 26:52].mean() < 0.1
    assert field.valid.mean() > 0.98


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_episode_shorter_than_the_horizon_looks_to_its_end(steps: int) -> None:
    fields = list(dis_chain(sliding_texture(steps, 64, (1, 0)), 16))
    assert len(fields) == steps
    moved = [float(f.flow_px[24:40, 24:40, 0].mean()) for f in fields]
    np.testing.assert_allclose(moved, np.arange(steps)[::-1], atol=0.3)
    assert not fields[-1].flow_px.any()
    assert not fields[-1].occluded.any()


@pytest.mark.parametrize("size", [(32, 32), (48, 100), (300, 200)])
def test_any_size(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, *size, 3)).astype(np.uint8)
    for field in dis_chain(frames, 2):
        assert field.flow_px.shape == (*size, 2)
        assert field.flow_px.dtype == np.float32
        assert np.isfinite(field.flow_px).all()
