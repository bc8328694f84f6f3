"""Image frames and the one conversion between them, for images, points, boxes and flow together.

robosuite renders bottom-up (GL) and LIBERO's files keep that. A picture as the camera sees it is UPRIGHT.
OpenVLA-style pipelines, and NORA with them, feed ``image[::-1, ::-1]`` of the GL image, the mirror of the true
picture: ROT180. Continuous coordinates have pixel centres at +0.5, x to the right and y down the array's rows.
"""

from __future__ import annotations

import io
from enum import Enum

import cv2
import numpy as np
from PIL import Image


class ImageFrame(Enum):
    """How the rows and columns of an image array relate to the camera's true picture: (flip rows, flip columns)."""

    UPRIGHT = (False, False)
    GL = (True, False)
    ROT180 = (False, True)


def _flips(source: ImageFrame, target: ImageFrame) -> tuple[bool, bool]:
    (rows_a, cols_a), (rows_b, cols_b) = source.value, target.value
    return rows_a != rows_b, cols_a != cols_b


def convert_image(image: np.ndarray, source: ImageFrame, target: ImageFrame) -> np.ndarray:
    """Re-order rows and columns. image: [..., H, W, C], any dtype; returns a contiguous copy."""
    rows, cols = _flips(source, target)
    return np.ascontiguousarray(image[..., :: -1 if rows else 1, :: -1 if cols else 1, :])


def convert_points(points: np.ndarray, size: tuple[int, int], source: ImageFrame, target: ImageFrame) -> np.ndarray:
    """points: [..., 2] as continuous (x, y) pixels in an image of size (H, W); returns the same shape."""
    rows, cols = _flips(source, target)
    height, width = size
    x, y = points[..., 0], points[..., 1]
    return np.stack([width - x if cols else x, height - y if rows else y], axis=-1)


def convert_boxes(boxes: np.ndarray, size: tuple[int, int], source: ImageFrame, target: ImageFrame) -> np.ndarray:
    """boxes: [..., 4] as continuous (x0, y0, x1, y1); corners stay ordered."""
    first = convert_points(boxes[..., :2], size, source, target)
    second = convert_points(boxes[..., 2:], size, source, target)
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


def convert_flow(flow: np.ndarray, source: ImageFrame, target: ImageFrame) -> np.ndarray:
    """flow: [..., H, W, 2] as (dx, dy) pixels: pixels move with the image and a flipped axis changes sign."""
    rows, cols = _flips(source, target)
    sign = np.array([-1 if cols else 1, -1 if rows else 1], flow.dtype)
    return convert_image(flow, source, target) * sign


def policy_image(image_gl: np.ndarray, size: int) -> np.ndarray:
    """What the policy sees, in training and in evaluation: ROT180, resized once to size x size.

    image_gl: uint8 [H, W, 3], GL frame. Returns uint8 [size, size, 3].
    """
    image = cv2.flip(image_gl, -1)  # GL to ROT180 turns both axes; `convert_image` takes 25 times as long
    if image.shape[:2] == (size, size):
        return image
    shrink = size < image.shape[0]
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)


def openvla_image(image_gl: np.ndarray, size: int) -> np.ndarray:
    """What OpenVLA's LIBERO evaluation shows, and NORA's with it: ROT180, JPEG and back, Lanczos to size x size.

    Source: `get_libero_image` and `resize_image` of openvla's experiments/robot (TensorFlow's encode_jpeg at its
    defaults, quality 95 and halved chroma, and lanczos3 with antialiasing; Pillow's are the same filters, other code,
    so that single values differ). image_gl: uint8 [H, W, 3], GL frame. Returns uint8 [size, size, 3].
    """
    file = io.BytesIO()
    Image.fromarray(cv2.flip(image_gl, -1)).save(file, "JPEG", quality=95, subsampling="4:2:0")
    with Image.open(file) as image:
        return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
