"""Names and numbers of the LIBERO suites: subsets, tasks, instructions, step limits. No simulator needed.

The table of tasks follows LIBERO's `libero_suite_task_map` with its default task order, so that `task_id` here is the
`task_id` of every published evaluation.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.checks import ConfigError
from configs.choices import STUDY, Subset
from data_pipeline.libero_90 import TASK_NAMES

SUITE_OF: dict[Subset, str] = {
    Subset.SPATIAL: "libero_spatial",
    Subset.OBJECT: "libero_object",
    Subset.GOAL: "libero_goal",
    Subset.LONG: "libero_10",
    Subset.NINETY: "libero_90",
}

MAX_STEPS: dict[Subset, int] = {
    Subset.SPATIAL: 220,
    Subset.OBJECT: 280,
    Subset.GOAL: 300,
    Subset.LONG: 520,
    Subset.NINETY: 400,
}
"""Environment steps after settling, as OpenVLA's LIBERO evaluation has them (longest demonstration plus a margin)."""

NUM_TASKS = 10
"""Tasks per suite of the study."""

_BOWL_PLACES = (
    "between_the_plate_and_the_ramekin",
    "next_to_the_ramekin",
    "from_table_center",
    "on_the_cookie_box",
    "in_the_top_drawer_of_the_wooden_cabinet",
    "on_the_ramekin",
    "next_to_the_cookie_box",
    "on_the_stove",
    "next_to_the_plate",
    "on_the_wooden_cabinet",
)
_GROCERIES = (
    "alphabet_soup",
    "cream_cheese",
    "salad_dressing",
    "bbq_sauce",
    "ketchup",
    "tomato_sauce",
    "butter",
    "milk",
    "chocolate_pudding",
    "orange_juice",
)

_TASKS: dict[Subset, tuple[str, ...]] = {
    Subset.SPATIAL: tuple(f"pick_up_the_black_bowl_{place}_and_place_it_on_the_plate" for place in _BOWL_PLACES),
    Subset.OBJECT: tuple(f"pick_up_the_{thing}_and_place_it_in_the_basket" for thing in _GROCERIES),
    Subset.GOAL: (
        "open_the_middle_drawer_of_the_cabinet",
        "put_the_bowl_on_the_stove",
        "put_the_wine_bottle_on_top_of_the_cabinet",
        "open_the_top_drawer_and_put_the_bowl_inside",
        "put_the_bowl_on_top_of_the_cabinet",
        "push_the_plate_to_the_front_of_the_stove",
        "put_the_cream_cheese_in_the_bowl",
        "turn_on_the_stove",
        "put_the_bowl_on_the_plate",
        "put_the_wine_bottle_on_the_rack",
    ),
    Subset.LONG: (
        "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket",
        "LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket",
        "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it",
        "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it",
        "LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate",
        "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy",
        "LIVING_ROOM_SCENE6_put_the_white_mug_on_the_plate_and_put_the_chocolate_pudding_to_the_right_of_the_plate",
        "LIVING_ROOM_SCENE1_put_both_the_alphabet_soup_and_the_cream_cheese_box_in_the_basket",
        "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove",
        "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
    ),
    Subset.NINETY: TASK_NAMES,
}

_OTHER_SENTENCES = {
    "pick black bowl on cookies box and place it on plate": "pick black bowl on cookie box and place it on plate",
    "pick black bowl next to cookies box and place it on plate": (
        "pick black bowl next to cookie box and place it on plate"
    ),
    "pick black bowl in top layer of wooden cabinet and place it on plate": (
        "pick black bowl in top drawer of wooden cabinet and place it on plate"
    ),
    "open middle layer of drawer": "open middle drawer of cabinet",
    "put wine bottle on top of drawer": "put wine bottle on top of cabinet",
    "open top layer of drawer and put bowl inside": "open top drawer and put bowl inside",
    "put bowl on top of drawer": "put bowl on top of cabinet",
    "put cream cheese on bowl": "put cream cheese in bowl",
}
"""Sentences of LIBERO's BDDL files that name a thing otherwise than the file's name does, both as `_plain` has them."""

_TASK_RANGE = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?")
_SCENE_PREFIX = re.compile(r"^[A-Z_]+SCENE\d+_")


def parse_subset(text: str, allowed: Sequence[Subset] = STUDY) -> Subset:
    """`object`, `libero_object`, `LIBERO-Object`; `long`, `libero_long`, `10`, `libero_10` are the same subset.

    Raises ConfigError naming the nearest subset, and for one that is not among the allowed.
    """
    name = text.strip().lower().replace("-", "_").removeprefix("libero_")
    if name == "10":
        name = Subset.LONG.value
    names = [subset.value for subset in allowed]
    if name in names:
        return Subset(name)
    if name == Subset.NINETY.value:
        raise ConfigError(
            f"subset {text!r} has no demonstrations here: libero_90 is for evaluation alone, `python "
            "scripts/evaluate.py --libero_subset 90`"
        )
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(f"subset {text!r} is unknown{hint}; allowed: {', '.join(names)} (or libero_<name>, libero_10)")


def parse_tasks(text: str, allowed: Sequence[int]) -> tuple[int, ...]:
    """`0,3` or `0-34,38`: task numbers in order. Raises ConfigError for what is no such list, or not allowed."""
    ends = [_TASK_RANGE.fullmatch(part) for part in text.split(",")]
    runs = [range(int(end[1]), int(end[2] or end[1]) + 1) for end in ends if end]
    chosen = [task for run in runs for task in run]
    if not all(ends) or not all(runs) or len(set(chosen)) < len(chosen) or not set(chosen) <= set(allowed):
        numbers = f"numbers of {tasks_text(allowed)}, each once, e.g. {_some(allowed)}"
        raise ConfigError(f"tasks {text!r}; allowed: {numbers}")
    return tuple(sorted(chosen))


def _some(allowed: Sequence[int]) -> str:
    """Two ways to name some of them."""
    first = sorted(allowed)[:2]
    return f"{first[0]} or {tasks_text(first)}"


def tasks_text(tasks: Iterable[int]) -> str:
    """Inverse of `parse_tasks`."""
    runs: list[list[int]] = []
    for task in sorted(tasks):
        if runs and task == runs[-1][-1] + 1:
            runs[-1].append(task)
        else:
            runs.append([task])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def task_names(subset: Subset) -> tuple[str, ...]:
    """The BDDL stems of a suite; the index is the task id."""
    return _TASKS[subset]


def instruction(task_name: str) -> str:
    """The sentence the policy reads: LIBERO's `Task.language`, lower case, derived from the file's name.

    (The BDDL file's own `:language` differs for some tasks: "akita black bowl" for "black bowl".)
    """
    return _SCENE_PREFIX.sub("", task_name).replace("_", " ").lower()


def has_scene_prefix(name: str) -> bool:
    """Whether a BDDL stem begins with its scene, as those of libero_10 and libero_90 do."""
    return _SCENE_PREFIX.match(name) is not None


def task_in_words(subset: Subset, text: str) -> int | None:
    """The task that a BDDL stem or a BDDL file's sentence names; None where that is no task of the suite."""
    names = _TASKS[subset]
    if text in names:
        return names.index(text)
    if has_scene_prefix(text):
        return None  # of libero_90: other scenes, some with a sentence of ours
    wanted = _OTHER_SENTENCES.get(_plain(text), _plain(text))
    return next((i for i, name in enumerate(names) if _plain(name) == wanted), None)


def _plain(text: str) -> str:
    """A sentence without the words in which file names and BDDL sentences differ ("pick the akita black bowl")."""
    return " ".join(word for word in instruction(text).split() if word not in ("the", "up", "akita"))


def demo_file(folder: Path, subset: Subset, task_id: int) -> Path:
    """Where the demonstrations of one task lie in a folder of official layout."""
    return folder / f"{_TASKS[subset][task_id]}_demo.hdf5"
