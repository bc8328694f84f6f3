"""Milestones of scripted episodes in the real simulator, and the category that follows from them."""

import json

import numpy as np
import pytest

from configs.choices import STUDY, Look, Subset
from configs.data import EnvConfig
from data_pipeline.contract import GRIPPER_OPEN
from data_pipeline.sim.expert.expert import expert_actions
from data_pipeline.sim.expert.fixtures import open_drawer
from data_pipeline.sim.expert.motion import Hand, Style
from data_pipeline.sim.expert.scene import Scene
from data_pipeline.sim.expert.skills import pick, place
from evaluation.failures import Category, Verdict, judge_milestones

pytestmark = pytest.mark.sim

SOUP, BASKET = "alphabet_soup_1", "basket_1"


class Stage:
    """One environment and its tracker; each `start` is the settled official initial state 0."""

    def __init__(self, subset, task):
        from data_pipeline.sim.environment import LiberoEnv

        self.env = LiberoEnv(subset, task, EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64))
        self.tracker = self.env.tracker()

    def start(self):
        self.env.reset(0, 0)
        self.env.settle()
        self.tracker.begin()
        return Hand(Scene(self.env), Style())

    def play(self, actions, until=lambda env: False):
        """Actions up to success, or to where `until` is true. Returns whether the goal holds."""
        for action in actions:
            done = self.env.step(np.clip(action, -1, 1))
            self.tracker.update()
            if done or until(self.env):
                return done
        return False

    def expert(self, until=lambda env: False):
        self.start()
        return self.play(expert_actions(self.env, np.random.default_rng(0)), until)

    def category(self):
        return judge_milestones(self.tracker.record()).category


@pytest.fixture(scope="module")
def soup():
    stage = Stage(Subset.OBJECT, 0)
    yield stage
    stage.env.close()


def raised(env, name=SOUP):
    return env.data.xpos[env.body_of(name)][2] > 0.12


def still(gripper, steps):
    return np.tile([0.0] * 6 + [gripper], (steps, 1))


def test_the_expert_passes_every_milestone_in_order_and_a_record_is_plain(soup):
    checks = []

    def same_as_robosuite(env):
        if len(checks) % 5 == 0:
            expected = {n for n in env.object_names if env.raw._check_grasp(hand, env.raw.get_object(n))}
            assert env.grasped_objects() == expected
            assert env.goals_hold() == (env.raw._check_success(),)
        checks.append(bool(env.grasped_objects()))
        return False

    hand = soup.env.raw.robots[0].gripper
    assert soup.expert(same_as_robosuite)
    assert any(checks)
    record = soup.tracker.record()
    assert json.loads(json.dumps(record)) == record
    assert len(json.dumps(record)) < 1000
    told, (goal,) = record["objects"][SOUP], record["goals"]
    assert 0 < told["touched"] <= told["grasped"] < told["lifted"] < told["moved"] < goal["first"] == len(checks) + 1
    assert told["dropped"] is None
    assert goal["end"]
    assert goal["closest_m"] == 0.0
    assert goal["away_start_m"] > 0.4
    assert goal["away_end_m"] < 0.05
    assert set(record["objects"]) == {SOUP}


def test_the_same_episode_has_the_same_milestones(soup):
    records = []
    for _ in range(2):
        soup.expert(lambda env: raised(env))
        records.append(soup.tracker.record())
    assert records[0] == records[1]


def test_opened_in_the_air_it_is_dropped_and_held_to_the_end_it_is_out_of_time(soup):
    soup.expert(raised)
    assert soup.category() is Category.OUT_OF_TIME
    soup.play(still(GRIPPER_OPEN, 20))
    told = soup.tracker.record()["objects"][SOUP]
    assert soup.category() is Category.DROPPED
    assert told["dropped"] == told["let_go"] > told["lifted"]
    assert told["fell_m"] > 0.05
    assert not told["held"]


def test_beside_its_place_it_is_misplaced(soup):
    hand = soup.start()
    soup.play(pick(hand, SOUP, []))
    scene = hand.scene
    at = scene.position(SOUP)[:2] + np.array([-0.08, 0.10])
    soup.play(place(hand, SOUP, at, 0.0))
    told = soup.tracker.record()["objects"][SOUP]
    assert not told["held"]
    assert told["dropped"] is None
    assert soup.category() is Category.MISPLACED


def test_another_object_is_the_wrong_one(soup):
    hand = soup.start()
    soup.play(pick(hand, "milk_1", []))
    assert soup.category() is Category.WRONG_OBJECT


def test_the_open_hand_at_the_object_is_not_grasped_and_far_away_never_touched(soup):
    soup.start()
    soup.play(still(GRIPPER_OPEN, 10))
    assert soup.category() is Category.NEVER_TOUCHED
    near = Scene(soup.env)
    soup.expert(lambda env: np.linalg.norm(near.hand_position - near.position(SOUP)) < 0.03)
    soup.play(still(GRIPPER_OPEN, 5))
    assert soup.category() is Category.NOT_GRASPED


def test_a_drawer_half_open_is_out_of_time_pushed_back_dropped_and_another_one_is_wrong():
    stage = Stage(Subset.GOAL, 0)
    (subject,) = {goal[1] for goal in stage.env.goal}
    slide = Scene(stage.env).joint_of_region(subject)
    address = stage.env.model.jnt_qposadr[slide]
    stage.expert(lambda env: abs(env.data.qpos[address]) > 0.07)
    (goal,) = stage.tracker.record()["goals"]
    assert 0.4 < goal["progress_end"] < 0.7
    assert goal["touched"] > 0
    assert stage.category() is Category.OUT_OF_TIME
    stage.env.data.qpos[address] = 0.0  # as if it had been pushed shut
    stage.play(still(GRIPPER_OPEN, 1))
    assert stage.category() is Category.DROPPED
    assert stage.tracker.record()["parts"] == {}
    stage.start()
    scene = Scene(stage.env)
    top = scene.joint_of_region("wooden_cabinet_1_top_region")
    stage.play(open_drawer(Hand(scene, Style()), "wooden_cabinet_1_top_region"))
    assert [*stage.tracker.record()["parts"]] == [stage.env.model.joint(top).name]
    assert stage.category() is Category.WRONG_OBJECT
    stage.env.close()


@pytest.mark.slow
@pytest.mark.parametrize(("subset", "task"), [(subset, task) for subset in STUDY for task in range(10)])
def test_every_task_of_the_study_can_be_watched(subset, task):
    stage = Stage(subset, task)
    stage.start()
    record = stage.tracker.record()
    assert [goal["goal"] for goal in record["goals"] if not goal["implied"]] == [
        " ".join([predicate.lower(), *names]) for predicate, *names in stage.env.goal
    ]
    assert all(0.02 < goal["closest_m"] < 0.6 for goal in record["goals"])  # the hand begins above the scene
    assert all(goal["touched"] is None for goal in record["goals"])
    assert all(told["touched"] is None and told["moved"] is None for told in record["objects"].values())
    for goal in record["goals"]:
        assert goal.get("progress_end", 0.0) == float(goal["end"])
    stage.env.close()


@pytest.mark.slow
def test_a_long_task_cut_after_its_first_goal_is_told_so():
    stage = Stage(Subset.LONG, 3)  # the bowl into the drawer, then the drawer shut
    drawer = "white_cabinet_1_bottom_region"
    address = stage.env.model.jnt_qposadr[Scene(stage.env).joint_of_region(drawer)]
    stage.start()
    actions = expert_actions(stage.env, np.random.default_rng(0))
    stage.play(actions, lambda env: any(env.held_goals) and not env.grasped_objects())
    assert judge_milestones(stage.tracker.record()) == Verdict(Category.NOT_GRASPED, f"close {drawer}", 1, 2)
    stage.play(actions, lambda env: env.data.qpos[address] > -0.06)
    verdict = judge_milestones(stage.tracker.record())
    assert (verdict.category, verdict.goal) == (Category.OUT_OF_TIME, f"close {drawer}")
    assert stage.play(actions)
    assert all(goal["end"] for goal in stage.tracker.record()["goals"])
    stage.env.close()
