"""What is wrong between recordings and the deployed path: hypotheses tested against the mismatch, the right one named.

Numpy only. Actions are the environment's: float [N, 7], pose deltas in [-1, 1], gripper -1 open / +1 close.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from configs.choices import Normalization
from data_pipeline.action_stats import DIMENSIONS, GRIPPER, ActionStatistics
from data_pipeline.contract import GRIPPER_CLOSE

GRIPPER_TOLERANCE = 0.1
"""Wrong steps per opening or closing. Rounding is a step's error of at most sqrt(horizon) / (2 scale): below 0.5, where
the hand is decided, none is wrong where the scale exceeds sqrt(horizon); decided at 0, a quarter of a step and more."""
SLOPE_TOLERANCE = 0.1
"""Of the regression of deployed on recorded deltas, where these are large against the rounding."""
FITTING_SHARE = 0.8
"""Share of the steps by which a shift in time is judged."""
SUSTAINED_STEPS = 10  # of one command, after which the fingers have followed it
PIXEL_TOLERANCE = 4.0
"""Mean difference of two pictures of one scene, in 1/255: drivers and resizing stay below, another view does not."""

_FLIPS = {
    (False, False): "as recorded",
    (True, False): "upside down",
    (False, True): "mirrored",
    (True, True): "rotated by 180 degrees",
}


class Part(StrEnum):
    """What a fault is of."""

    GRIPPER = "gripper"
    STATISTICS = "statistics"
    FRAME = "frame"
    CHUNK_LENGTH = "chunk length"
    TOKENIZER = "tokenizer"
    SIMULATOR = "simulator"


@dataclass(frozen=True)
class Fault:
    """One fault, named."""

    part: Part
    says: str


@dataclass(frozen=True)
class Pairs:
    """Recorded actions and what the deployed path made of them, step by step."""

    recorded: np.ndarray  # float64 [N, 7]
    deployed: np.ndarray  # float64 [N, 7], not clipped yet


# ------------------------------------------------------------------ the gripper


def gripper_fault(pairs: Pairs) -> Fault | None:
    """Inverted, or moved in time."""
    closed, told = pairs.recorded[:, GRIPPER] > 0, pairs.deployed[:, GRIPPER] > 0
    wrong = float(np.mean(closed != told))
    if wrong > 0.5:
        return Fault(
            Part.GRIPPER,
            "the gripper is inverted between statistics and environment: recorded close = "
            f"{GRIPPER_CLOSE:+g}, deployed {-GRIPPER_CLOSE:+g} in {wrong:.0%} of steps",
        )
    steps, turns = int((closed != told).sum()), max(int((closed[1:] != closed[:-1]).sum()), 1)
    if steps > GRIPPER_TOLERANCE * turns:
        opened = float(np.mean(closed & ~told) / wrong)
        return Fault(
            Part.GRIPPER,
            f"the gripper opens and closes at other steps than recorded ({steps} of {len(closed)}, in {turns} openings "
            f"and closings; {opened:.0%} of these steps are deployed open): is it decided at 0.5 between 0 (close) and "
            "1 (open)?",
        )
    return None


def recorded_gripper_fault(actions: Sequence[np.ndarray], fingers: Sequence[np.ndarray]) -> Fault | None:
    """Whether the recordings' own commands move the fingers the other way.

    actions: [T, 7] each; fingers: joint positions [T, 2] each, m, of opposite signs.
    """
    gaps: dict[bool, list[float]] = {True: [], False: []}
    for command, joints in zip(actions, fingers, strict=True):
        closed, gap = command[:, GRIPPER] > 0, joints[:, 0] - joints[:, 1]
        for step in range(SUSTAINED_STEPS, len(closed)):
            if (closed[step - SUSTAINED_STEPS : step] == closed[step - 1]).all():
                gaps[bool(closed[step - 1])].append(float(gap[step]))
    if not gaps[True] or not gaps[False]:
        return None
    after_close, after_open = 1000 * float(np.mean(gaps[True])), 1000 * float(np.mean(gaps[False]))
    if after_close < after_open:
        return None
    return Fault(
        Part.GRIPPER,
        f"the recordings' gripper is inverted: after {GRIPPER_CLOSE:+g} (close) the fingers stand {after_close:.0f} mm "
        f"apart, after {-GRIPPER_CLOSE:+g} (open) {after_open:.0f} mm",
    )


# ------------------------------------------------------------------ pose deltas


@dataclass(frozen=True)
class Expected:
    """How far deployed pose deltas may lie from the recorded ones where nothing is wrong."""

    taught: ActionStatistics  # of training
    scale: float  # of the tokenizer
    horizon: int

    def rounding(self, statistics: ActionStatistics) -> np.ndarray:
        """Root mean square that rounding a DCT coefficient may cost, in actions: float64 [6].

        A uniform error is 1 / sqrt(12) of a step; twice that covers the worst case, 1 / 2 of it throughout.
        """
        return 2 * statistics.unit[:GRIPPER] / (self.scale * np.sqrt(12))

    def allowed(self, recorded: np.ndarray) -> np.ndarray:
        """Rounding, and what the normalisation clips: float64 [6]."""
        inside = recorded[:, :GRIPPER]
        if self.taught.mode is not Normalization.NORMAL:
            inside = np.clip(inside, self.taught.low[:GRIPPER], self.taught.high[:GRIPPER])
        return self.rounding(self.taught) + 2 * _rms(recorded[:, :GRIPPER] - inside)


def pose_fault(pairs: Pairs, expected: Expected, others: Iterable[ActionStatistics] = ()) -> Fault | None:
    """The first hypothesis that explains a mismatch: other statistics, other axes, other scale, other time, else other
    codes.

    others: statistics of other data sets that may have been taken by mistake.
    """
    recorded, deployed = pairs.recorded[:, :GRIPPER], pairs.deployed[:, :GRIPPER]
    allowed = expected.allowed(pairs.recorded)
    slope, offset = _regression(recorded, deployed)
    large = recorded.std(0) > 2 * allowed
    error = _rms(deployed - recorded)
    if (error <= allowed).all() and (np.abs(slope - 1)[large] <= SLOPE_TOLERANCE).all():
        return None
    return (
        _other_statistics(pairs, expected, others)
        or _other_axes(recorded, deployed, allowed, large)
        or _other_scale(recorded, deployed, allowed, large, (slope, offset))
        or _other_time(recorded, deployed, allowed, expected.horizon)
        or Fault(
            Part.TOKENIZER,
            f"the decoded actions are not the recorded ones (RMSE {np.linalg.norm(error):.2f} of [-1, 1]), and no "
            "other scale, axes or time explain it: the tokenizer that decodes is not the one that encoded",
        )
    )


def _other_statistics(pairs: Pairs, expected: Expected, others: Iterable[ActionStatistics]) -> Fault | None:
    normal = expected.taught.normalize(pairs.recorded)
    misses: dict[str, float] = {}
    for other in others:
        error = _rms(pairs.deployed[:, :GRIPPER] - other.unnormalize(normal)[:, :GRIPPER])
        if (error <= expected.rounding(other)).all():
            misses[other.dataset] = float(np.linalg.norm(error))
    if not misses:
        return None
    return Fault(
        Part.STATISTICS,
        f"actions are un-normalised with the statistics of {min(misses, key=misses.__getitem__)}, and were normalised "
        f"with those of {expected.taught.dataset}",
    )


def _signed_permutations() -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """(order, signs) of the 48 ways to rename three axes; the first changes nothing."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            yield order, np.array(signs)


def _other_axes(recorded: np.ndarray, deployed: np.ndarray, allowed: np.ndarray, large: np.ndarray) -> Fault | None:
    """Position and rotation deltas each as the recorded ones in another frame."""
    renamed: list[str] = []
    for part in (slice(0, 3), slice(3, 6)):
        fits = [
            (float(np.linalg.norm(_rms(deployed[:, part] - signs * recorded[:, part][:, order]))), order, signs)
            for order, signs in _signed_permutations()
        ]
        miss, order, signs = min(fits, key=lambda fit: fit[0])  # the first of equals: nothing renamed
        if miss > np.linalg.norm(allowed[part]):
            return None
        names = DIMENSIONS[part]
        renamed += [
            f"{name} is the recorded {'-' if sign < 0 else ''}{names[source]}"
            for name, source, sign, big in zip(names, order, signs, large[part][list(order)], strict=True)
            if big and (sign < 0 or names[source] != name)
        ]
    if not renamed:
        return None
    return Fault(Part.FRAME, f"the actions are in a rotated or mirrored frame: {', '.join(renamed)}")


def _other_scale(
    recorded: np.ndarray,
    deployed: np.ndarray,
    allowed: np.ndarray,
    large: np.ndarray,
    fit: tuple[np.ndarray, np.ndarray],
) -> Fault | None:
    slope, offset = np.where(large, fit[0], 1), np.where(large, fit[1], deployed.mean(0) - recorded.mean(0))
    left = _rms(deployed - (recorded * slope + offset))
    if (left > allowed * np.maximum(1, np.abs(slope))).any():
        return None
    parts = [
        f"{name} = {s:.2f} x recorded {o:+.2f}"
        for name, s, o, a in zip(DIMENSIONS, slope, offset, allowed, strict=False)
        if abs(s - 1) > SLOPE_TOLERANCE or abs(o) > a / 2
    ]
    says = "the statistics that un-normalise, or the tokenizer's scale, are not those of training, scaled or shifted: "
    return Fault(Part.STATISTICS, says + ", ".join(parts))


def _other_time(recorded: np.ndarray, deployed: np.ndarray, allowed: np.ndarray, horizon: int) -> Fault | None:
    """Whether most steps fit when time is shifted; the ends of episodes, which follow each other here, need not."""

    def miss(lag: int) -> float:
        squares = np.square(deployed - np.roll(recorded, lag, axis=0)).sum(1)
        return float(np.sqrt(np.sort(squares)[: int(FITTING_SHARE * len(squares))].mean()))

    misses = {lag: miss(lag) for lag in range(-horizon, horizon + 1)}
    lag = min(misses, key=misses.__getitem__)
    if lag == 0 or misses[lag] > max(misses[0] / 3, float(np.linalg.norm(allowed))):
        return None
    late = f"{abs(lag)} steps {'late' if lag > 0 else 'early'}"
    return Fault(Part.CHUNK_LENGTH, f"actions are executed {late}: chunks are cut at another length")


def _regression(recorded: np.ndarray, deployed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares per column: (slope, offset), float64 [D] each; slope 1 where nothing moves."""
    centred = recorded - recorded.mean(0)
    spread = (centred**2).sum(0)
    slope = np.where(spread > 0, (centred * deployed).sum(0) / np.where(spread > 0, spread, 1), 1)
    return slope, deployed.mean(0) - slope * recorded.mean(0)


def _rms(values: np.ndarray) -> np.ndarray:
    """Root mean square of each column."""
    return np.sqrt(np.mean(np.square(values), axis=0))


# ------------------------------------------------------------------ pictures


def frame_fault(trained: Sequence[np.ndarray], deployed: Sequence[np.ndarray], drawn: str = "") -> Fault | None:
    """Compare what training and deployment make of the first frames, uint8 [S, S, 3] each; None where there are none.

    drawn: what is known about how differently they were drawn, for the message.
    """
    if not trained:  # the simulator broke before it showed anything, and that is told
        return None
    misses = {
        flips: float(np.mean([_difference(a, _flipped(b, *flips)) for a, b in zip(trained, deployed, strict=True)]))
        for flips in _FLIPS
    }
    same, best = misses[(False, False)], min(misses, key=misses.__getitem__)
    if same <= PIXEL_TOLERANCE:
        return None
    if best != (False, False) and misses[best] < same / 2:
        return Fault(
            Part.FRAME,
            f"the deployed frame is {_FLIPS[best]} against training's: the first frames differ by {same:.0f} of 255, "
            f"turned back by {misses[best]:.1f}",
        )
    return Fault(
        Part.FRAME, f"the deployed frame shows another picture than training's, by {same:.0f} of 255 {drawn}".rstrip()
    )


def _flipped(image: np.ndarray, rows: bool, columns: bool) -> np.ndarray:  # noqa: FBT001 - which axes
    return image[:: -1 if rows else 1, :: -1 if columns else 1]


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in 1/255; two sizes are two pictures."""
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean()) if a.shape == b.shape else 255.0


def differing(recorded: Mapping[str, object], here: Mapping[str, object]) -> str:
    """How two environments' fingerprints differ: `(look light, here official)`; "" where they do not."""
    keys = [key for key in sorted({*recorded, *here}) if recorded.get(key) != here.get(key)]
    return f"({', '.join(f'{key} {recorded.get(key)}, here {here.get(key)}' for key in keys)})" if keys else ""
