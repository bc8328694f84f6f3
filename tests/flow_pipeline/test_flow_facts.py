"""What is counted of flow and tokens, and what is warned of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from configs.choices import Subset
from data_pipeline.contract import EpisodeId
from flow_pipeline.flow_checks import run_checks, total
from flow_pipeline.flow_facts import EDGES_PX, Tally, errors, resized, tally
from flow_pipeline.flow_field import STORED_CELLS
from tests.helpers.flows import GRID, K, moving_hand, tokens_of

EPISODE = EpisodeId(Subset.OBJECT, 0, 0)


def counted(steps: int = 20, toward: tuple[float, float] = (12.0, 0.0), scale: float = 1.0) -> Tally:
    flow = moving_hand(steps, toward)
    tokens = tokens_of(EPISODE, flow)
    return tally(flow, tokens, scale * GRID.decode(tokens.codes), 48.0)


def test_sums_are_those_of_every_cell() -> None:
    flow = moving_hand(20)
    tokens = tokens_of(EPISODE, flow)
    decoded = GRID.decode(tokens.codes)
    found = tally(flow, tokens, decoded, 48.0)
    error = [
        np.hypot(*(decoded[t, row // 4, column // 4] - flow.flow[t, row, column].astype(np.float32)))
        for t in range(20)
        for row in range(STORED_CELLS)
        for column in range(STORED_CELLS)
    ]
    assert found.epe_all == pytest.approx(np.mean(error), rel=1e-5)
    assert (found.steps, found.cells, found.moving) == (20, 20 * 1024, 19 * 64)
    assert found.zero_moving == pytest.approx(12.0)
    assert found.zero_all == pytest.approx(12.0 * 19 * 64 / (20 * 1024))
    assert found.short == K // 2, "k_effective 1 and 0 of 4"
    assert found.lengths[0].tolist() == [19 * 64 if low == 12 else 0 for low in EDGES_PX[:-1]]
    used = np.flatnonzero(found.codes).tolist()
    assert len(used) == 2, "static, and the hand"
    assert found.mean_code_flow_px[used[1]] == pytest.approx(decoded[0, 2, 1])


def test_two_tallies_are_the_tally_of_both() -> None:
    one, other = counted(20), counted(30, (0.0, -5.0))
    both = one + other
    assert (both.episodes, both.steps) == (2, 50)
    assert both.codes.sum() == 50 * 64
    assert both.epe_all == pytest.approx((one.error_px + other.error_px) / (50 * 1024))


def test_coarser_is_a_mean_and_finer_repeats() -> None:
    flow = np.arange(2 * 4 * 4 * 2, dtype=np.float32).reshape(2, 4, 4, 2)
    assert resized(flow, 2)[0, 0, 0] == pytest.approx(flow[0, :2, :2].mean((0, 1)))
    assert (resized(flow, 8)[:, ::2, 1::2] == flow).all()
    assert errors(resized(flow, 8), flow).max() == 0


def warned(tallies: dict[str, Tally], stated: float | None = None) -> dict[str, str]:
    return {c.name: c.findings[0].says for c in run_checks(tallies, stated) if c.findings}


def test_good_tokens_raise_no_warning() -> None:
    tallies = {"0 pick": counted(), "1 place": counted(toward=(0.0, -12.0))}
    checks = run_checks(tallies, total(tallies).epe_moving)
    assert not [c.name for c in checks if c.findings or c.lacks]
    assert run_checks(tallies, None)[-1].lacks == "it does not say"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (counted(scale=0.0), "no better than predicting no motion in 1 task"),
        (counted(scale=4.0), "Over all cells, tokens are worse than predicting no motion"),
        (counted(scale=0.5), "lose 1.3 times the mean share"),
        (counted(toward=(60.0, 0.0)), "longer than the tokenizer can say"),
        (counted(steps=8), "less than half the horizon ahead"),
        (counted(toward=(0.1, 0.0)), "Nothing moves in most steps"),
    ],
    ids=["no better", "spills", "worse", "too long", "short", "still"],
)
def test_a_fault_is_named(bad: Tally, says: str) -> None:
    found = warned({"0 pick": counted(), "1 bad": bad})
    assert any(says in text for text in found.values()), found


def test_codes_that_hardly_vary_and_other_figures_than_stated_are_named() -> None:
    good = counted()
    assert warned({"0 pick": good}, good.epe_moving + 1).keys() == {"tokens decode to what their manifest says"}
    rare = replace(good, codes=np.where(np.arange(GRID.num_codes) == 0, good.codes * 1000, good.codes))
    assert "One code is 100.0 % of all codes" in warned({"0 pick": rare}).values()
