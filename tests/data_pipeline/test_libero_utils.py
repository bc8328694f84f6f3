"""Names of suites and tasks against LIBERO's own table, and the aliases a user may type."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.checks import ConfigError
from configs.choices import STUDY, Subset
from data_pipeline import libero_utils


@pytest.mark.parametrize("text", ["long", "libero_long", "libero_10", "10", "LIBERO-10", " Libero_Long "])
def test_the_long_suite_has_many_names(text: str) -> None:
    assert libero_utils.parse_subset(text) is Subset.LONG


@pytest.mark.parametrize("subset", list(Subset))
def test_every_suite_is_known_by_its_own_name(subset: Subset) -> None:
    assert libero_utils.parse_subset(subset.value, tuple(Subset)) is subset
    assert libero_utils.parse_subset(libero_utils.SUITE_OF[subset], tuple(Subset)) is subset


def test_libero_90_is_for_evaluation_alone() -> None:
    with pytest.raises(ConfigError, match="libero_90 is for evaluation alone"):
        libero_utils.parse_subset("libero_90")


def test_a_misspelt_subset_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'spatial'"):
        libero_utils.parse_subset("libero_spatail")
    with pytest.raises(ConfigError, match="subset 'all' is unknown; allowed: spatial, object"):
        libero_utils.parse_subset("all")


@pytest.mark.parametrize("subset", list(Subset))
def test_tasks_are_liberos_in_its_order(subset: Subset) -> None:
    spec = importlib.util.find_spec("libero")
    assert spec is not None
    root = Path(next(iter(spec.submodule_search_locations or []))) / "libero"
    table = runpy.run_path(str(root / "benchmark" / "libero_suite_task_map.py"))["libero_task_map"]
    suite = libero_utils.SUITE_OF[subset]
    assert list(libero_utils.task_names(subset)) == table[suite]
    for name in table[suite]:
        assert (root / "bddl_files" / suite / f"{name}.bddl").is_file()


@pytest.mark.parametrize("subset", STUDY)
def test_a_task_is_known_by_its_stem_and_by_its_bddl_sentence(subset: Subset) -> None:
    spec = importlib.util.find_spec("libero")
    assert spec is not None
    root = Path(next(iter(spec.submodule_search_locations or []))) / "libero" / "bddl_files"
    for task_id, name in enumerate(libero_utils.task_names(subset)):
        content = (root / libero_utils.SUITE_OF[subset] / f"{name}.bddl").read_text()
        sentence = re.search(r"\(:language\s+([^)]*)\)", content)
        assert sentence is not None
        for text in (name, sentence[1].strip()):
            assert libero_utils.task_in_words(subset, text) == task_id
            assert [s for s in STUDY if libero_utils.task_in_words(s, text) is not None] == [subset]


def test_another_scenes_task_is_not_known_by_its_sentence() -> None:
    stem = "KITCHEN_SCENE3_turn_on_the_stove"  # of libero_90
    assert libero_utils.task_in_words(Subset.GOAL, "turn_on_the_stove") == 7
    assert all(libero_utils.task_in_words(subset, stem) is None for subset in STUDY)


def test_instructions_lose_the_scene_and_the_underscores() -> None:
    long = libero_utils.task_names(Subset.LONG)
    assert libero_utils.instruction(long[8]) == "put both moka pots on the stove"
    assert libero_utils.instruction(libero_utils.task_names(Subset.GOAL)[7]) == "turn on the stove"
    ninety = libero_utils.task_names(Subset.NINETY)
    assert len(ninety) == 90
    assert libero_utils.instruction(ninety[0]) == "close the top drawer of the cabinet"  # KITCHEN_SCENE10
    assert all("scene" not in libero_utils.instruction(name) for name in ninety)
    everything = [libero_utils.instruction(n) for s in STUDY for n in libero_utils.task_names(s)]
    assert len(set(everything)) == 40
    assert all(text == text.lower() and "scene" not in text and "_" not in text for text in everything)


def test_demo_files_are_named_as_the_official_ones() -> None:
    path = libero_utils.demo_file(Path("x"), Subset.OBJECT, 3)
    assert path == Path("x/pick_up_the_bbq_sauce_and_place_it_in_the_basket_demo.hdf5")


@given(st.sets(st.integers(0, 89), min_size=1))
def test_tasks_as_text_are_read_back(tasks: set[int]) -> None:
    assert libero_utils.parse_tasks(libero_utils.tasks_text(tasks), range(90)) == tuple(sorted(tasks))


def test_a_run_of_tasks_is_written_short() -> None:
    assert libero_utils.tasks_text([0, 1, 2, 5, 8, 7]) == "0-2,5,7-8"


@pytest.mark.parametrize("text", ["", "x", "1,", "4-2", "0,4-2", "3,3", "0-3,2", "-1", "9", "1-9", "1 - 2", "²"])
def test_what_is_no_list_of_tasks_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed: numbers of 0-8, each once"):
        libero_utils.parse_tasks(text, range(9))


@pytest.mark.parametrize(("allowed", "example"), [((0, 3), "0 or 0,3"), ((5, 6, 7), "5 or 5-6"), ((4,), "4 or 4")])
def test_what_is_suggested_instead_is_allowed(allowed: tuple[int, ...], example: str) -> None:
    with pytest.raises(ConfigError, match=f"e.g. {example}$"):
        libero_utils.parse_tasks("99", allowed)
    for text in example.split(" or "):
        assert set(libero_utils.parse_tasks(text, allowed)) <= set(allowed)
