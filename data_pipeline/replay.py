"""Replay one demonstration in the simulator: what it shows, whether it still succeeds, what to keep of it.

The filter is that of OpenVLA's LIBERO regeneration: no-op actions are not executed at all, and success is what the
simulator says after the last action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.contract import CAMERAS, SimulationUnstableError
from data_pipeline.hdf5_layout import DemoRecord, copy_demo, write_demo
from data_pipeline.metainfo import Verdict
from data_pipeline.raw_loader import ReplayStart, read_replay

if TYPE_CHECKING:
    from data_pipeline.sim.environment import LiberoEnv

NOOP_NORM = 1e-4
"""Largest norm of the six pose deltas of a no-op (OpenVLA's threshold)."""
SAME_STATE = 1e-6
"""Largest deviation of a replayed state, in its own units, at which the stored images still show it."""


@dataclass(frozen=True)
class Replay:
    """What a replay saw; row t before action t."""

    states: np.ndarray  # float64 [T, S]
    observations: Mapping[str, np.ndarray]  # float64 [T, n]
    images: Mapping[str, np.ndarray]  # camera -> uint8 [T, R, R, 3], ImageFrame.GL; {} where not drawn
    success: bool  # after the last action


# ------------------------------------------------------------------ the filter


def noop_mask(actions: np.ndarray) -> np.ndarray:
    """Which of actions [T, 7] do nothing: no motion, and the gripper as in the last action kept. bool [T]."""
    still = np.linalg.norm(actions[:, :6], axis=1) < NOOP_NORM
    mask = np.zeros(len(actions), bool)
    gripper = None
    for step in range(len(actions)):
        mask[step] = still[step] and (gripper is None or actions[step, 6] == gripper)
        if not mask[step]:
            gripper = actions[step, 6]
    return mask


def max_deviation(states: np.ndarray, stored: np.ndarray) -> float:
    """Largest absolute difference, rounded up to three digits; infinite where the shapes differ."""
    if states.shape != stored.shape:
        return float("inf")
    return float(f"{np.abs(states - stored).max():.3g}")


# ------------------------------------------------------------------ one demonstration


def cannot_start(env: LiberoEnv, start: ReplayStart) -> str | None:
    """Why the simulator cannot be put where the demonstration began, None where it can."""
    expected, unknown = len(env.state()), sorted(set(env.fixture_poses()) - set(start.fixture_poses))
    if len(start.init_state) != expected:
        return f"its states have {len(start.init_state)} numbers, this simulator's {expected}: other assets or versions"
    if unknown:
        return f"the places of {', '.join(unknown)} are unknown: attribute model_file lacks them"
    return None


def begin_replay(env: LiberoEnv, start: ReplayStart) -> None:
    """Put the simulator where the demonstration's row 0 was."""
    env.reset(start.seed, start.init_state)
    fixtures = env.fixture_poses()
    wanted = {name: start.fixture_poses[name] for name in fixtures}
    if wanted != fixtures:  # ours are already there: the seed placed them
        env.set_fixture_poses(wanted)
        env.set_state(start.init_state)
    if start.resume_gripper is not None:
        env.resume(start.resume_gripper)
    if start.settle_steps:
        env.settle(start.settle_steps)


def replay(env: LiberoEnv, start: ReplayStart, actions: np.ndarray, cameras: tuple[str, ...]) -> Replay:
    """Execute actions [T, 7] from the demonstration's start, recording before each. No cameras: nothing is drawn."""
    begin_replay(env, start)
    states, extras = [], []
    frames: dict[str, list[np.ndarray]] = {camera: [] for camera in cameras}
    success = env.success()
    for action in actions:
        states.append(env.state())
        extras.append(env.observation_extras())
        for camera in cameras:
            frames[camera].append(env.render(camera))
        success = env.step(action)
    return Replay(
        states=np.array(states),
        observations={key: np.array([e[key] for e in extras]) for key in extras[0]},
        images={camera: np.array(images) for camera, images in frames.items()},
        success=bool(success),
    )


def regenerate_demo(env: LiberoEnv, source: Path, demo: int, target: Path, *, keep_failures: bool = False) -> Verdict:
    """Replay one demonstration and write it to `target` (see `write_demo`) unless it is dropped.

    Where the source was drawn by this very environment and the replay meets the same states, its images are exact and
    are copied instead of drawn again. Where the physics blows up, the demonstration is dropped.
    """
    start = read_replay(source, demo)
    fingerprint = env.fingerprint()
    noops = noop_mask(start.actions)
    actions = start.actions[~noops]
    verdict = Verdict(
        success=False,
        initial_state=start.init_state.tolist(),
        steps=len(actions),
        noops_removed=int(noops.sum()),
        images="none",
        max_state_deviation=None,
        dropped=cannot_start(env, start) or ("every action is a no-op" if len(actions) == 0 else None),
    )
    if verdict.dropped:
        return verdict
    may_reuse = not noops.any() and dict(start.fingerprint) == fingerprint
    try:
        seen = replay(env, start, actions, () if may_reuse else CAMERAS)
        reused = may_reuse and max_deviation(seen.states, start.states) < SAME_STATE
        if may_reuse and not reused:
            seen = replay(env, start, actions, CAMERAS)
    except SimulationUnstableError as problem:
        return replace(verdict, dropped=str(problem))
    verdict = replace(
        verdict,
        success=seen.success,
        max_state_deviation=None if noops.any() else max_deviation(seen.states, start.states),
        dropped=None if seen.success else "the task is not solved at the end of the replay",
    )
    if verdict.dropped and not keep_failures:
        return verdict
    if reused:
        copy_demo(source, demo, target)
        return replace(verdict, images="reused")
    phases = [phase for phase, noop in zip(start.expert_phases, noops, strict=False) if not noop]
    write_demo(target, replace(_record(env, start, actions, seen), expert_phases=phases))
    return replace(verdict, images="rendered")


def _record(env: LiberoEnv, start: ReplayStart, actions: np.ndarray, seen: Replay) -> DemoRecord:
    return DemoRecord(
        actions=actions,
        states=seen.states,
        observations=seen.observations,
        images=seen.images,
        init_state=start.init_state,
        settle_steps=start.settle_steps,
        resume_gripper=start.resume_gripper,
        fixture_poses=env.fixture_poses(),
        seed=start.seed,
        fingerprint=env.fingerprint(),
        success=seen.success,
        model_file=start.model_file,
    )
