"""How fast a run is, and whether it waits for data or for the model: timing.jsonl, which differs from run to run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from training.sampling import StepInput

TIMING_FILE = "timing.jsonl"


class Timer:
    """The clock of one attempt at a run, which begins after `step` steps."""

    def __init__(self, step: int) -> None:
        self._first, self._begun = step, time.monotonic()
        self._data_s = 0.0
        self._last = self._begun

    def waited_for(self, inputs: Iterator[StepInput]) -> Iterator[StepInput]:
        """The same inputs; how long each was waited for is remembered."""
        while True:
            began = time.monotonic()
            step_input = next(inputs, None)
            if step_input is None:
                return
            self._data_s = time.monotonic() - began
            yield step_input

    def row(self, step: int, samples: int) -> dict[str, Any]:
        """What the step that has just ended took. samples: of this process."""
        now = time.monotonic()
        whole_s, self._last = now - self._last, now
        return {
            "step": step,
            "samples_per_s": round(samples / whole_s, 3),
            "data_s": round(self._data_s, 4),
            "model_s": round(whole_s - self._data_s, 4),
        }

    def steps_per_s(self, step: int) -> float:
        """Since this attempt began."""
        return (step - self._first) / (time.monotonic() - self._begun)
