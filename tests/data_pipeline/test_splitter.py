"""The split: a partition by demonstration within each task from which no training demonstration moves into test."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.checks import ConfigError
from configs.choices import Subset
from configs.slices import SplitSlice
from data_pipeline.contract import EpisodeId, StageContext
from data_pipeline.data_splitter import (
    MIN_DEMOS_FOR_TEST,
    Split,
    is_drawn,
    load_split,
    run_split,
    save_split,
    split_episodes,
)
from tests.helpers.synthetic import write_synthetic_subset

fractions = st.floats(0.001, 0.5)
numbers = st.sets(st.integers(0, 120), min_size=MIN_DEMOS_FOR_TEST, max_size=60)
episode_ids = st.builds(EpisodeId, st.sampled_from(Subset), st.integers(0, 9), st.integers(0, 60))


def task(demos: int, task_id: int = 0) -> list[EpisodeId]:
    return [EpisodeId(Subset.GOAL, task_id, demo) for demo in range(demos)]


@given(
    st.lists(episode_ids, unique=True), st.just(0.0) | fractions, st.integers(0, 5), st.randoms(use_true_random=False)
)
def test_split_is_a_partition_that_ignores_order(ids, fraction, seed, random) -> None:
    split = split_episodes(ids, fraction, seed)
    assert sorted(split.train + split.test) == sorted(ids)
    assert not set(split.train) & set(split.test)
    random.shuffle(ids)
    assert split_episodes(ids, fraction, seed) == split


@given(st.lists(episode_ids, unique=True, max_size=30), st.integers(0, 5))
def test_every_task_is_divided_for_itself(ids, seed) -> None:
    whole = split_episodes(ids, 0.2, seed)
    for key in {(e.subset, e.task_id) for e in ids}:
        alone = split_episodes([e for e in ids if (e.subset, e.task_id) == key], 0.2, seed)
        assert set(alone.test) == {e for e in whole.test if (e.subset, e.task_id) == key}


@given(st.integers(1, 200), fractions, st.integers(0, 20))
def test_share_of_demonstrations_numbered_without_gaps(demos, fraction, seed) -> None:
    """Within one of the exact share, and at least one from four on."""
    count = len(split_episodes(task(demos), fraction, seed).test)
    if demos < MIN_DEMOS_FOR_TEST:
        assert count == 0
    else:
        assert abs(count - demos * fraction) <= 1.5
        assert count >= 1


@pytest.mark.parametrize(
    ("demos", "fraction", "expected"),
    [(50, 0.05, {2, 3}), (100, 0.05, {5}), (8, 0.05, {1}), (4, 0.05, {1}), (3, 0.05, {0}), (50, 0.0, {0})],
)
def test_usual_shares(demos: int, fraction: float, expected: set[int]) -> None:
    assert {len(split_episodes(task(demos), fraction, seed).test) for seed in range(30)} == expected


@given(numbers, numbers, fractions, st.integers(0, 20))
def test_adding_demonstrations_never_moves_a_training_one_into_test(some, more, fraction, seed) -> None:
    small = [EpisodeId(Subset.GOAL, 3, demo) for demo in some]
    large = [EpisodeId(Subset.GOAL, 3, demo) for demo in some | more]
    before, after = (split_episodes(ids, fraction, seed) for ids in (small, large))
    assert not set(before.train) & set(after.test)
    moved = set(before.test) - set(after.test)
    assert not any(is_drawn(e, fraction, seed) for e in moved)  # a stand-in, and it stood alone
    assert not moved or len(before.test) == 1


@given(st.integers(4, 60), st.integers(0, 60), fractions, st.integers(0, 20))
def test_numbered_without_gaps_nothing_moves_at_all(demos, more, fraction, seed) -> None:
    before, after = (split_episodes(task(n), fraction, seed) for n in (demos, demos + more))
    assert set(before.test) == {e for e in after.test if e.demo < demos}


def test_the_seed_matters_and_the_split_is_pinned() -> None:
    assert split_episodes(task(50), 0.05, 42).test != split_episodes(task(50), 0.05, 43).test
    assert [str(e) for e in split_episodes(task(50), 0.05, 42).test] == ["goal/00/000", "goal/00/032", "goal/00/044"]


def test_save_and_load(tmp_path: Path) -> None:
    split = split_episodes(task(10) + task(5, 3), 0.2, 1)
    save_split(tmp_path / "split.json", split)
    assert load_split(tmp_path / "split.json") == split
    save_split(tmp_path / "bad.json", Split(split.train, split.train[:1]))
    with pytest.raises(ConfigError, match=r"goal/00/00\d is both in train and in test"):
        load_split(tmp_path / "bad.json")


def test_stage(tmp_path: Path) -> None:
    folder = write_synthetic_subset(tmp_path / "demos", Subset.LONG, demos=5, steps=3, size=4)
    context = StageContext(work=tmp_path, inputs={"regenerate": folder})
    assert run_split(SplitSlice(Subset.LONG, 0.05, 42), context) == ["split.json"]
    split = load_split(tmp_path / "split.json")
    assert (len(split.train), len(split.test)) == (8, 2)
