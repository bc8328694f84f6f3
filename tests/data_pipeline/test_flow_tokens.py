"""Flow tokens on disk: what is saved is what is loaded; damage and tokens of something else are refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.checks import ConfigError
from configs.choices import Subset
from data_pipeline.contract import EnvironmentProblem, EpisodeId, FlowTokens
from data_pipeline.flow_tokens import (
    check_flow_manifest,
    load_flow_manifest,
    load_flow_tokens,
    made_of,
    save_flow_tokens,
)
from data_pipeline.packed import read_packed, write_packed
from data_pipeline.raw_loader import Hdf5Source
from tests.helpers.synthetic import write_synthetic_subset

EPISODE = EpisodeId(Subset.OBJECT, 3, 17)


def flow_tokens(codes: np.ndarray) -> FlowTokens:
    return FlowTokens(EPISODE, codes, np.minimum(8, np.arange(len(codes))[::-1]).astype(np.uint16), 8, 26, "abc")


def test_flow_tokens_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    tokens = flow_tokens(np.random.default_rng(0).integers(0, 26, (20, 16)).astype(np.uint16))
    for name in ("a.json", "b.json"):
        save_flow_tokens(tmp_path / name, {EPISODE: tokens}, {"backend": "sim"})
    for suffix in (".json", ".npz"):
        first, second = ((tmp_path / name).with_suffix(suffix) for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
        loaded = load_flow_tokens(first)[EPISODE]
        np.testing.assert_array_equal(loaded.codes, tokens.codes)
        np.testing.assert_array_equal(loaded.k_effective, tokens.k_effective)
        assert (loaded.k, loaded.num_codes, loaded.tokenizer_digest) == (8, 26, "abc")
        manifest = load_flow_manifest(first)
        assert (manifest["backend"], manifest["camera"], manifest["frame"]) == ("sim", "agentview", "rot180")


def test_a_code_outside_the_vocabulary_is_damage(tmp_path: Path) -> None:
    save_flow_tokens(tmp_path / "f.json", {EPISODE: flow_tokens(np.full((2, 4), 26, np.uint16))}, {})
    with pytest.raises(EnvironmentProblem, match="damaged"):
        load_flow_tokens(tmp_path / "f.json")


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_number_that_was_changed_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = (tmp_path / "f.json").with_suffix(suffix)
    save_flow_tokens(tmp_path / "f.json", {EPISODE: flow_tokens(np.full((3, 4), 2, np.uint16))}, {"backend": "sim"})
    load_flow_tokens(path)
    if suffix == ".json":
        path.write_text(path.read_text().replace("[2,2,2,2]", "[2,3,2,2]", 1))
    else:
        manifest, arrays = read_packed(path, "")
        arrays[f"{EPISODE}/codes"][0, 1] = 3
        write_packed(path, manifest, arrays)
    with pytest.raises(EnvironmentProblem, match=r"digest .*manifest says .*preprocess_flow"):
        load_flow_tokens(path)


def test_a_manifest_that_was_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    save_flow_tokens(path, {EPISODE: flow_tokens(np.full((3, 4), 2, np.uint16))}, {"backend": "sim"})
    path.write_text(path.read_text().replace('"sim"', '"raft"'))
    with pytest.raises(EnvironmentProblem, match="manifest says"):
        load_flow_tokens(path)


def test_a_torn_npz_is_named(tmp_path: Path) -> None:
    save_flow_tokens(tmp_path / "f.json", {EPISODE: flow_tokens(np.full((3, 4), 2, np.uint16))}, {})
    path = tmp_path / "f.npz"
    for content in (path.read_bytes()[:-30], b""):
        path.write_bytes(content)
        with pytest.raises(EnvironmentProblem, match=r"f\.npz is damaged.*preprocess_flow"):
            load_flow_tokens(path)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"k": 5}, r"k is 8, and this run needs 5"),
        ({"camera": "wrist"}, r"camera is 'agentview', and this run needs 'wrist'"),
        ({"frame": "upright"}, r"frame is 'rot180', and this run needs 'upright'"),
        ({"tokenizer": {"name": "fsq"}}, r"tokenizer\.name is 'grid', and this run needs 'fsq'"),
        ({"tokenizer": {"fit": {"seed": 1}}}, r"tokenizer\.fit\.seed is None, and this run needs 1"),
        ({"tokenizer_digest": "def"}, r"tokenizer_digest is 'abc', and this run needs 'def'"),
        ({"filter": {"noop_norm": 1e-3}}, r"filter\.noop_norm is 0\.0001, and this run needs 0\.001"),
    ],
)
def test_tokens_made_of_something_else_are_refused_by_name(
    tmp_path: Path, wanted: dict[str, object], said: str
) -> None:
    path = tmp_path / "f.npz"
    manifest = {"tokenizer": {"name": "grid"}, **made_of([])}
    save_flow_tokens(tmp_path / "f.json", {EPISODE: flow_tokens(np.full((3, 4), 2, np.uint16))}, manifest)
    found = load_flow_manifest(path)
    check_flow_manifest(path, found, {"k": 8, "frame": "rot180"}, Subset.OBJECT)
    with pytest.raises(ConfigError, match=rf"f\.npz: {said}; .*preprocess_flow\.py --subset object --output .*f\.json"):
        check_flow_manifest(path, found, wanted, Subset.OBJECT)


def test_other_demonstrations_or_fewer_steps_are_refused(tmp_path: Path) -> None:
    data = write_synthetic_subset(tmp_path, Subset.OBJECT, demos=2, steps=6)
    source = Hdf5Source(data, Subset.OBJECT)
    episodes = [source.open(e) for e in source.list()]
    found = made_of(episodes)
    assert found == made_of(reversed(episodes))
    shorter = [replace(e, actions=e.actions[:-1]) for e in episodes]
    with pytest.raises(ConfigError, match=r"demos\.steps is 24, and this run needs 20"):
        check_flow_manifest(tmp_path, found, made_of(shorter), Subset.OBJECT)
    for name, value in (("assets", "official"), ("look", "lean"), ("resolution", 256)):
        others = [*episodes[:-1], replace(episodes[-1], fingerprint={**episodes[-1].fingerprint, name: value})]
        with pytest.raises(ConfigError, match=rf"drawn\.{name} is '(synthetic|not recorded)', .* needs '.*{value}.*'"):
            check_flow_manifest(tmp_path, found, made_of(others), Subset.OBJECT)
    other = [replace(e, actions=e.actions + 1) for e in episodes]
    with pytest.raises(ConfigError, match=r"demos\.digest is "):
        check_flow_manifest(tmp_path, found, made_of(other), Subset.OBJECT)
