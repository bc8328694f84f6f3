"""Things of a kind are told apart as the instruction does it, in every task of the four suites that has some.

Which of two bowls "next to the ramekin" means is decided here by where they lie, not by their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.ecot_annotator import names_in_picture
from data_pipeline.ecot_words import unique_labels
from data_pipeline.sim.environment import LiberoEnv
from data_pipeline.sim.features import Replayer
from data_pipeline.templates import label
from tests.data_pipeline.sim.test_feature_exactness import episode

pytestmark = pytest.mark.sim

CONFIG = EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64)
Place = Callable[[str], np.ndarray]  # what a thing is called in an instruction -> where it is, [3]
SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in range(1, 10)]


def nearest_to(*names: str) -> Callable[[np.ndarray, Place], float]:
    """Horizontal distance to all of these."""
    return lambda bowl, place: sum(float(np.linalg.norm((bowl - place(name))[:2])) for name in names)


RELATIONS = {
    r"between the plate and the ramekin": nearest_to("plate", "ramekin"),
    r"(next to|on) the (?P<thing>[a-z ]+)": None,
    r"in the top drawer of the wooden cabinet": lambda bowl, place: float(bowl[2]),  # the other stands on the cabinet
    r"from table center": lambda bowl, place: float(np.linalg.norm(bowl[:2])),  # the world's origin
}


def badness(relation: str, bowl: np.ndarray, place: Place) -> float:
    """How badly a bowl fits the words; smaller is better."""
    for pattern, measure in RELATIONS.items():
        if found := re.fullmatch(pattern, relation):
            return (measure or nearest_to(found["thing"]))(bowl, place)
    raise AssertionError(relation)


@pytest.mark.parametrize("task", [0, *SLOW])
def test_the_bowl_that_is_named_is_the_one_in_that_relation(task: int) -> None:
    env = LiberoEnv(Subset.SPATIAL, task, CONFIG)
    env.reset(seed=3)
    env.settle(5)
    replayer = Replayer(CONFIG)
    replayer._env = env
    recorded = episode(env, env.state()[None])
    track = replayer.track(recorded)
    (relation,) = re.findall(r"^pick up the black bowl (.+) and place it on the plate$", env.instruction)
    names = names_in_picture(unique_labels(track), env.instruction)
    (named,) = [n for n, name in enumerate(names) if relation in name]
    assert names[named] == f"black bowl {relation}"

    def place(thing: str) -> np.ndarray:
        known = (*env.object_names, *env.fixture_names)
        fitting = [n for n in known if thing in (label(n), label(n).removeprefix("wooden "), n.rpartition("_")[0])]
        fitting += [n for n in known if thing.replace(" ", "_") in n]
        return env.data.xpos[env.body_of(fitting[0])]

    bowls = {n: env.data.xpos[env.body_of(n)] for n in env.object_names if n.startswith("akita_black_bowl")}
    assert len(bowls) == 2
    fits = min(bowls, key=lambda n: badness(relation, bowls[n], place))
    assert track.names[named] == fits, {n: badness(relation, bowls[n], place) for n in bowls}
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(("task", "kind"), [(4, "plate"), (8, "moka pot")])
def test_left_and_right_are_those_of_the_instruction(task: int, kind: str) -> None:
    """ "The left plate" is left in the upright picture, which faces the robot; of the moka pots nothing is said."""
    env = LiberoEnv(Subset.LONG, task, CONFIG)
    env.reset(seed=3)
    replayer = Replayer(CONFIG)
    replayer._env = env
    track = replayer.track(episode(env, env.state()[None]))
    names = names_in_picture(unique_labels(track), env.instruction)
    sides = {name.split(" ")[0]: track.position[0, n] for n, name in enumerate(names) if name.endswith(kind)}
    assert set(sides) == {"left", "right"}
    if kind == "plate":
        where = env.camera("agentview")
        columns = {side: ((point - where.position) @ where.rotation)[0] for side, point in sides.items()}
        assert columns["left"] < columns["right"]
        (left,) = [n for n, name in enumerate(names) if name == "left plate"]
        assert track.goals[0].target == track.names[left], "where the white mug goes"
    env.close()
