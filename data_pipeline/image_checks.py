"""What may be wrong with the images of demonstrations. See `inspection_checks`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.contract import AGENTVIEW, WRIST
from data_pipeline.findings import Findings, counted, found
from data_pipeline.inspection import DemoFacts, Inspection

CAMERA_NAMES = {AGENTVIEW: "agentview", WRIST: "wrist camera"}
DARK = 8.0  # mean brightness of 255
MOVING_M = 0.005
"""A hand that moves so far in one step (10 cm/s) changes pixels of either camera."""


def blank(inspection: Inspection) -> Findings:
    """Images of one colour, and demonstrations that are almost black."""
    where: list[str] = []
    for demo in inspection.demos:
        for camera, pixels in demo.pixels.items():
            if pixels.scan.flat:
                where.append(f"{demo.id} {_steps(camera, pixels.scan.flat)}")
            elif pixels.brightness < DARK:
                where.append(f"{demo.id} {CAMERA_NAMES[camera]}: mean brightness {pixels.brightness:.1f} of 255")
    return found(
        f"Images are of a single colour or almost black in {counted(where, 'demonstration')}",
        where,
        "The renderer failed there. Check it with `nora-ecot doctor`, then make or download these demonstrations anew.",
    )


def frozen(inspection: Inspection) -> Findings:
    """Images that stand still while the hand moves."""
    where: list[str] = []
    for demo in inspection.demos:
        for camera, pixels in demo.pixels.items():
            standing = [step for step in pixels.scan.repeated if moved(demo, step) > MOVING_M]
            if standing:
                where.append(f"{demo.id} {_steps(camera, standing)}")
    return found(
        f"Images stand still while the hand moves more than {1000 * MOVING_M:g} mm per step, in "
        f"{counted(where, 'demonstration')}",
        where,
        "Images and states are out of step. Regenerate the demonstrations with scripts/regenerate_libero.py.",
    )


def sizes(inspection: Inspection) -> Findings:
    """Images of several sizes."""
    sizes = inspection.resolutions
    return found(
        f"Images have {len(sizes)} sizes",
        sizes if len(sizes) > 1 else (),
        "Everything is resized for the policy, but sharpness then differs between demonstrations. Regenerate all "
        "with one --image_resolution.",
    )


def environments(inspection: Inspection) -> Findings:
    """Images that different environments drew, as far as files name them."""
    prints = inspection.fingerprints
    keys = sorted({key for one in prints for key in one})
    differing = [key for key in keys if len({str(one.get(key)) for one in prints}) > 1]
    return found(
        f"Images come from {len(prints)} different environments",
        [f"{key}: {' | '.join(str(one.get(key)) for one in prints)}" for key in differing],
        "Assets, look and simulator change what the policy sees. Regenerate all demonstrations in one environment.",
    )


def moved(demo: DemoFacts, step: int) -> float:
    """How far the hand moved from the step before, m."""
    return float(np.linalg.norm(demo.position[step] - demo.position[step - 1]))


def _steps(camera: str, steps: Sequence[int]) -> str:
    return f"{CAMERA_NAMES[camera]}: {counted(steps, 'frame')}, first at step {steps[0]}"
