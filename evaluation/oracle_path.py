"""Recorded actions through training's conversions and the deployed ones, without a simulator, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contract import ACTION_DIM, Episode
from evaluation.decoding import ActionConstraint
from evaluation.interface import Interface
from evaluation.oracle_faults import Expected, Fault, Pairs, Part, gripper_fault, pose_fault
from training.action_alphabets import UndecodableAction

MM_PER_UNIT = 50.0  # of a position delta: LIBERO's OSC controller moves 0.05 m
MRAD_PER_UNIT = 500.0  # of a rotation delta: 0.5 rad


@dataclass(frozen=True)
class ActionPath:
    """Training's side and the deployed one; the same object where nothing was trained yet."""

    taught: Interface
    deployed: Interface

    def chunk(self, actions: np.ndarray, step: int) -> tuple[np.ndarray, int]:
        """Recorded actions [T, 7] at a step, tokenised and back: float32 [H, 7], and the number of tokens.

        Past the end the hand stays where it is. Raises UndecodableAction where the deployed side cannot read or would
        never have written what training teaches.
        """
        rest = (actions, step) if step < len(actions) else (still(actions), 0)
        codes = self.taught.codes(*rest)
        check_possible(self.deployed.constraint, codes)
        return self.deployed.actions(codes), len(codes)


def still(actions: np.ndarray) -> np.ndarray:
    """One action [1, 7] that moves nothing and holds the gripper as the last one does."""
    hold = np.zeros((1, ACTION_DIM), actions.dtype)
    hold[0, -1] = actions[-1, -1]
    return hold


def check_possible(constraint: ActionConstraint, codes: Sequence[int]) -> None:
    """Raise UndecodableAction unless constrained decoding could write these codes, and stop after the last."""
    state, left = constraint.start(1)
    for position, code in enumerate(codes):
        if code >= constraint.allowed.shape[-1] or not constraint.allowed[state[0], left[0], code]:
            raise UndecodableAction(f"code {code} cannot stand at position {position} of a chunk")
        state, left = constraint.advance(state, left, np.array([code]))
    if state[0] or left[0]:
        raise UndecodableAction(f"{left[0]} of {constraint.total} coefficients are missing")


# ------------------------------------------------------------------ what the path does to actions


@dataclass(frozen=True)
class Fidelity:
    """Recorded and deployed actions of some demonstrations at one chunk length."""

    pairs: Pairs
    tokens: float  # per chunk, mean
    undecodable: tuple[str, ...]  # chunks that the deployed side cannot read, and why

    @property
    def position_mm(self) -> float:
        """Root mean square error per axis and step."""
        return self._rmse(slice(0, 3)) * MM_PER_UNIT

    @property
    def rotation_mrad(self) -> float:
        """Root mean square error per axis and step."""
        return self._rmse(slice(3, 6)) * MRAD_PER_UNIT

    @property
    def gripper_steps(self) -> int:
        """Steps at which the gripper is told the other thing."""
        return int((self.pairs.recorded[:, -1] * self.pairs.deployed[:, -1] < 0).sum())

    def _rmse(self, part: slice) -> float:
        difference = np.clip(self.pairs.deployed[:, part], -1, 1) - self.pairs.recorded[:, part]  # as the engine does
        return float(np.sqrt(np.mean(difference**2))) if len(difference) else float("nan")


def measure(chosen: Sequence[Episode], path: ActionPath, execute: int) -> Fidelity:
    """Every executed step as recorded and as deployed."""
    recorded, deployed, tokens, undecodable = [np.zeros((0, ACTION_DIM))], [np.zeros((0, ACTION_DIM))], [], []
    for episode in chosen:
        actions = episode.actions
        for step in range(0, len(actions), execute):
            try:
                chunk, count = path.chunk(actions, step)
            except UndecodableAction as problem:
                undecodable.append(f"{episode.id} step {step}: {problem}")
                continue
            rows = actions[step : step + min(execute, len(chunk))]
            recorded.append(rows)
            deployed.append(chunk[: len(rows)])
            tokens.append(count)
    pairs = Pairs(np.concatenate(recorded).astype(np.float64), np.concatenate(deployed).astype(np.float64))
    return Fidelity(pairs, float(np.mean(tokens)) if tokens else 0.0, tuple(undecodable))


def action_faults(fidelity: Fidelity, path: ActionPath, others: Sequence[ActionStatistics] = ()) -> list[Fault]:
    """What is wrong with the actions that come out of the path."""
    if fidelity.undecodable:
        count, first = len(fidelity.undecodable), fidelity.undecodable[0]
        return [Fault(Part.TOKENIZER, f"{count} chunks cannot be read by the deployed tokenizer; {first}")]
    expected = Expected(path.taught.statistics, path.taught.tokenizer.scale, path.taught.tokenizer.horizon)
    found = (gripper_fault(fidelity.pairs), pose_fault(fidelity.pairs, expected, others))
    return [fault for fault in found if fault is not None]
