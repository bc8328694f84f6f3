"""A perturbed episode differs in one thing, by how much its strength says, and leaves no trace in the next."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
import pytest

from configs.choices import Look, Subset
from configs.data import EnvConfig
from configs.perturbation import MAGNITUDES, Kind, Perturbation
from data_pipeline.contract import AGENTVIEW, WRIST, SimulationUnstableError
from data_pipeline.sim import layout_shift
from data_pipeline.sim.environment import LiberoEnv
from data_pipeline.sim.perturbation import begin

pytestmark = pytest.mark.sim

SOUP, DRAWER, STOVE_FRONT = (Subset.OBJECT, 0), (Subset.SPATIAL, 4), (Subset.GOAL, 5)
STRENGTHS = (1, 2, 3)


@functools.cache
def shared(task: tuple[Subset, int], look: Look = Look.LIGHT) -> LiberoEnv:
    return LiberoEnv(*task, EnvConfig(assets="builtin", look=look, resolution=64))


@pytest.fixture(scope="module", autouse=True)
def _one_cache_per_module() -> Iterator[None]:
    yield
    shared.cache_clear()


def episode(env: LiberoEnv, text: str, init_state: int = 0, seed: int = 0) -> list[np.ndarray]:
    """Frames and states of a short episode; text "" is a plain one."""
    if text:
        begin(env, Perturbation.parse(text), init_state, seed)
    else:
        env.reset(seed=seed, init_state=init_state)
    env.settle(3)
    seen = []
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 7)):
        env.step(action)
        seen += [env.render(AGENTVIEW), env.render(WRIST), env.state()]
    return seen


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def drawn(env: LiberoEnv, kind: Kind, strength: int, init_state: int = 0, seed: int = 0) -> dict[str, Any]:
    return begin(env, Perturbation(kind, strength), init_state, seed).drawn


# ------------------------------------------------------------------ isolation and determinism


@pytest.mark.parametrize("kind", list(Kind))
def test_a_plain_episode_after_a_perturbed_one_is_the_plain_episode_bit_for_bit(kind: Kind) -> None:
    env = shared(STOVE_FRONT)
    plain = episode(env, "")
    perturbed = episode(env, f"{kind.value}:3")
    assert equal(perturbed, plain) == (kind is Kind.INSTRUCTION)
    assert equal(episode(env, ""), plain)


@pytest.mark.parametrize("kind", list(Kind))
def test_it_depends_on_task_init_state_and_seed_and_on_nothing_before(kind: Kind) -> None:
    env = shared(SOUP)
    first = episode(env, f"{kind.value}:2")
    others = [drawn(env, kind, 2, init_state=1), drawn(env, kind, 2, seed=1), drawn(shared(STOVE_FRONT), kind, 2)]
    episode(env, "camera:3", init_state=4)
    assert equal(episode(env, f"{kind.value}:2"), first)
    assert kind is Kind.INSTRUCTION or drawn(env, kind, 2) not in others


# ------------------------------------------------------------------ kinds


def test_the_camera_turns_about_what_it_looks_at_and_nothing_else_changes() -> None:
    env = shared(SOUP)
    plain = episode(env, "")
    env.reset(seed=0, init_state=0)
    before, moved, directions = env.camera(AGENTVIEW), [], set()
    for strength in STRENGTHS:
        directions.add(drawn(env, Kind.CAMERA, strength)["direction_deg"])
        after = env.camera(AGENTVIEW)
        turned = np.arccos((np.trace(before.rotation.T @ after.rotation) - 1) / 2)
        assert np.rad2deg(turned) == pytest.approx(MAGNITUDES[strength].camera_deg, abs=1e-4)
        moved.append(np.linalg.norm(after.position - before.position))
        frames = episode(env, f"camera:{strength}")
        assert not np.array_equal(frames[0], plain[0])
        assert equal(frames[1::3] + frames[2::3], plain[1::3] + plain[2::3])  # the wrist's pictures, and the states
    assert moved == sorted(moved)
    assert len(directions) == 1


@pytest.mark.parametrize(
    "look", [Look.LIGHT, *(pytest.param(look, marks=pytest.mark.slow) for look in (Look.FAST, Look.OFFICIAL))]
)
def test_light_changes_the_picture_more_with_strength_in_every_look_and_no_state(look: Look) -> None:
    env = shared(SOUP, look)
    for init_state in (0, 1, 2):  # both brighter and darker
        env.reset(seed=0, init_state=init_state)
        plain, state, changes = env.render(AGENTVIEW).astype(float), env.state(), []
        for strength in STRENGTHS:
            drawn(env, Kind.LIGHT, strength, init_state)
            changes.append(np.abs(env.render(AGENTVIEW) - plain).mean())
            np.testing.assert_array_equal(env.state(), state)
        assert 4 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize(
    "task", [SOUP, *(pytest.param(task, marks=pytest.mark.slow) for task in (DRAWER, STOVE_FRONT))]
)
def test_layout_moves_by_its_strength_touches_nothing_and_stands(task: tuple[Subset, int]) -> None:
    env, means = shared(task), []
    env.reset(seed=0, init_state=0)
    env.settle()
    at_rest = {name: env.data.xpos[env.body_of(name)].copy() for name in env.object_names}
    for strength in STRENGTHS:
        length = MAGNITUDES[strength].layout_m
        moved = drawn(env, Kind.LAYOUT, strength)["moved_m"]
        env.settle()
        assert not env.success()
        assert _deepest_contact(env) > -0.003
        for name, position in at_rest.items():
            off = env.data.xpos[env.body_of(name)] - position
            np.testing.assert_allclose(off[:2], moved.get(name, [0, 0]), atol=0.016)
            assert abs(off[2]) < 0.01
        shifts = [np.linalg.norm(offset) for offset in moved.values()]
        assert max(shifts) == pytest.approx(length, abs=1e-3)
        assert set(np.round(np.array(shifts) / length, 2)) <= {1.0, 0.5, 0.25}
        means.append(np.mean(shifts))
    assert means == sorted(means)


def _deepest_contact(env: LiberoEnv) -> float:
    mujoco.mj_forward(env.model, env.data)
    return min(contact.dist for contact in env.data.contact[: env.data.ncon])


def test_what_lies_in_a_drawer_moves_with_the_cabinet() -> None:
    moved = drawn(shared(DRAWER), Kind.LAYOUT, 2)["moved_m"]
    assert moved["akita_black_bowl_1"] == moved["wooden_cabinet_1"] == moved["akita_black_bowl_2"]
    assert moved["plate_1"] != moved["wooden_cabinet_1"]


def test_what_a_sentence_relates_moves_together_and_with_it_the_place_on_the_table() -> None:
    env = shared(STOVE_FRONT)
    env.reset(seed=0, init_state=0)
    region = "main_table_stove_front_region"
    before = env.data.site(region).xpos.copy()
    moved = drawn(env, Kind.LAYOUT, 2)["moved_m"]
    assert moved["plate_1"] == moved["flat_stove_1"] == moved[region]
    assert moved["wine_bottle_1"] != moved["plate_1"]
    np.testing.assert_allclose((env.data.site(region).xpos - before)[:2], moved[region], atol=1e-3)
    env.reset(seed=0, init_state=0)
    np.testing.assert_array_equal(env.data.site(region).xpos, before)


def test_a_layout_that_never_stands_leaves_everything_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    env = shared(SOUP)
    plain = episode(env, "")
    monkeypatch.setattr(layout_shift, "_stands", lambda *_: False)
    monkeypatch.setattr(layout_shift, "_ATTEMPTS", 1)
    assert drawn(env, Kind.LAYOUT, 3) == {"moved_m": {}}
    assert equal(episode(env, "layout:3"), plain)


def test_a_layout_that_blows_up_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    env, settle, calls = shared(SOUP), LiberoEnv.settle, list[int]()

    def sometimes(self: LiberoEnv, steps: int = 10) -> None:
        calls.append(steps)
        if len(calls) == 2:  # the first is of the plain episode
            raise SimulationUnstableError("boom")
        settle(self, steps)

    monkeypatch.setattr(LiberoEnv, "settle", sometimes)
    assert drawn(env, Kind.LAYOUT, 2)["moved_m"]
    assert len(calls) >= 3


def test_the_instruction_is_another_and_the_episode_the_same() -> None:
    env = shared(SOUP)
    said = [begin(env, Perturbation(Kind.INSTRUCTION, strength), 0, 0).instruction for strength in STRENGTHS]
    assert len({env.instruction, *said}) == 4
    assert begin(env, Perturbation(Kind.CAMERA, 1), 0, 0).instruction == env.instruction


def test_where_a_thing_is_put_moves_on_its_own() -> None:
    """`pick up the black bowl next to the ramekin and place it on the plate`"""
    moved = drawn(shared((Subset.SPATIAL, 1)), Kind.LAYOUT, 2)["moved_m"]
    assert moved["akita_black_bowl_1"] == moved["akita_black_bowl_2"] == moved["glazed_rim_porcelain_ramekin_1"]
    assert moved["plate_1"] != moved["akita_black_bowl_1"]


def test_the_left_and_the_right_plate_keep_their_sides() -> None:
    env = shared((Subset.LONG, 4))
    moved = drawn(env, Kind.LAYOUT, 3)["moved_m"]
    assert moved["plate_1"] == moved["plate_2"]
    assert moved["porcelain_mug_1"] != moved["plate_1"]
