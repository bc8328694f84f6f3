"""Figures of flow tokens against a plain count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_pipeline.contract import STATIC_CODE
from flow_pipeline.grid_tokenizer import GridTokenizer
from training.flow_figures import NO_CODE, FlowCodes, FlowReader
from training.layout import Vocabulary
from training.loss import TokenLosses

GRID = GridTokenizer(cells=2, levels=5, static_px=0.75)
FIRST = 100
VOCABULARY = Vocabulary(50, 10, FIRST, GRID.num_codes, 1, 2, 0)
READER = FlowReader(VOCABULARY, 4, GRID.decode)
WANTED = np.array([[0, 0, 5, 21], [7, 0, 0, 26 - 1]])
CHOSEN = np.array([[0, 3, 5, NO_CODE], [7, 0, 0, 1]])


def tokens(wanted: list[int], chosen: list[int]) -> TokenLosses:
    nothing = torch.zeros(len(wanted))
    return TokenLosses(nothing, nothing, nothing, nothing, torch.tensor(wanted), torch.tensor(chosen))


def test_codes_are_found_between_other_tokens() -> None:
    """Tags, text and actions stand around them; a token that is no code is none."""
    wanted = [9, *(FIRST + c for c in WANTED[0]), 52, 9, *(FIRST + c for c in WANTED[1]), 2]
    chosen = [9, FIRST, FIRST + 3, FIRST + 5, 9, 52, FIRST, FIRST + 7, FIRST, FIRST, FIRST + 1, 2]
    found = READER.read(tokens(wanted, chosen))
    assert found.wanted.tolist() == WANTED.tolist()
    assert found.chosen.tolist() == CHOSEN.tolist()


def test_accuracies_and_errors_are_those_of_a_plain_count() -> None:
    found = READER.figures([FlowCodes(CHOSEN[:1], WANTED[:1]), FlowCodes(CHOSEN[1:], WANTED[1:])])
    truth, guess = GRID.decode(WANTED), GRID.decode(np.where(CHOSEN < 0, STATIC_CODE, CHOSEN))
    errors = [float(np.hypot(*(guess - truth)[i])) for i in np.ndindex(2, 2, 2)]
    lengths = [float(np.hypot(*truth[i])) for i in np.ndindex(2, 2, 2)]
    moving = [i for i, length in enumerate(lengths) if length > 0]
    assert found == pytest.approx(
        {
            "flow_accuracy": 5 / 8,
            "flow_moving_accuracy": 2 / 4,
            "flow_epe_px": np.mean(errors),
            "flow_epe_moving_px": np.mean([errors[i] for i in moving]),
            "flow_epe_moving_zero_px": np.mean([lengths[i] for i in moving]),
        }
    )


def test_the_truth_has_no_error_and_nothing_has_no_figures() -> None:
    perfect = READER.figures([FlowCodes(WANTED, WANTED)])
    assert (perfect["flow_accuracy"], perfect["flow_epe_px"]) == (1.0, 0.0)
    assert READER.figures([READER.read(tokens([9, 2], [9, 2]))]) == {}
    still = np.zeros((1, 4), int)
    assert READER.figures([FlowCodes(still, still)]) == {"flow_accuracy": 1.0, "flow_epe_px": 0.0}


def test_without_a_decoder_there_are_accuracies_alone() -> None:
    found = FlowReader(VOCABULARY, 4, None).figures([FlowCodes(CHOSEN, WANTED)])
    assert found.keys() == {"flow_accuracy", "flow_moving_accuracy"}


def test_a_sequence_with_another_number_of_codes_is_all_wrong() -> None:
    truth = [9, *(FIRST + c for c in WANTED[0]), 52]
    assert READER.compare(truth, truth).chosen.tolist() == WANTED[:1].tolist()
    assert READER.compare(truth[:-2], truth).chosen.tolist() == [[NO_CODE] * 4]
    assert READER.compare(truth, [9, 52]).chosen.shape == (0, 4)
