"""Flow tokens on disk: a manifest and, per episode, the codes of each step; as JSON to be read, as .npz to train on.

Both hold the same, and a digest over all of it: a number that was changed, by whatever, is noticed. What the tokens
were made of (k, camera, frame, tokenizer, demonstrations, pictures, filter) is in the manifest; `check_flow_manifest`
compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.checks import ConfigError
from configs.choices import Subset
from data_pipeline.contract import AGENTVIEW, Episode, EpisodeId, FlowTokens, demos_digest
from data_pipeline.packed import read_packed, write_packed
from data_pipeline.replay import NOOP_NORM
from data_pipeline.sidecar import damaged, read_tree, write_tree

FLOW_COMMAND = "python scripts/preprocess_flow.py --subset {subset} --output {path}"
FLOW_TOKENS_FORMAT = "nora-ecot flow tokens 2"
FLOW_TOKENS_JSON, FLOW_TOKENS_NPZ = "flow_tokens.json", "flow_tokens.npz"
"""What the stage `tokens` writes. Training reads the .npz; the .json is for people and other programs."""
PLACE = {"camera": AGENTVIEW, "frame": "rot180"}
"""Where flow tokens are looked at; nothing here makes or reads others."""


def save_flow_tokens(path: Path, tokens: Mapping[EpisodeId, FlowTokens], manifest: Mapping[str, Any]) -> None:
    """Write `path` (.json) and the same as .npz beside it, each atomically.

    tokens: not empty; k, num_codes and tokenizer_digest must be the same everywhere (ValueError).
    manifest: where they come from (backend, tokenizer definition, demos, filter); plain JSON values.
    """
    kinds = {(t.k, t.num_codes, t.tokenizer_digest) for t in tokens.values()}
    if len(kinds) != 1:
        raise ValueError(f"flow tokens of one file must share k, num_codes and tokenizer; got {sorted(kinds)}")
    k, num_codes, digest = kinds.pop()
    header = {"format": FLOW_TOKENS_FORMAT, "k": k, "num_codes": num_codes, "tokenizer_digest": digest, **PLACE}
    header |= manifest
    header["content_digest"] = content_digest(header, tokens)
    episodes = {
        str(e): {"k_effective": t.k_effective.tolist(), "codes": t.codes.tolist()} for e, t in sorted(tokens.items())
    }
    codes = {f"{e}/codes": t.codes for e, t in tokens.items()}
    write_packed(
        path.with_suffix(".npz"), header, codes | {f"{e}/k_effective": t.k_effective for e, t in tokens.items()}
    )
    write_tree(path, {"manifest": header, "episodes": episodes})


def load_flow_tokens(path: Path) -> dict[EpisodeId, FlowTokens]:
    """Read either file. Raises EnvironmentProblem where it is missing or not what was written, with the remedy."""
    manifest, entries = _entries(path)
    try:
        tokens = {EpisodeId.parse(e): _flow_tokens(e, *entry, manifest) for e, entry in sorted(entries.items())}
        wanted, found = manifest["content_digest"], content_digest(manifest, tokens)
        if found != wanted:
            raise ValueError(f"its content has digest {found[:16]}, its manifest says {wanted[:16]}")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path, error, FLOW_COMMAND) from error
    return tokens


def load_flow_manifest(path: Path) -> dict[str, Any]:
    """The header of a flow token file: format, k, camera, frame, tokenizer, digests, filter, quality."""
    return _entries(path)[0]


def content_digest(manifest: Mapping[str, Any], tokens: Mapping[EpisodeId, FlowTokens]) -> str:
    """sha256 over the manifest (this digest apart) and every code."""
    header = {name: value for name, value in manifest.items() if name != "content_digest"}
    state = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for episode, entry in sorted(tokens.items()):
        state.update(f"{episode}{entry.codes.shape}".encode())
        state.update(entry.codes.astype("<u2").tobytes() + entry.k_effective.astype("<u2").tobytes())
    return state.hexdigest()


def _entries(path: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
    """(manifest, episode -> (codes, k_effective))."""
    try:
        if path.suffix == ".npz":
            manifest, arrays = read_packed(path, f"make it with `{FLOW_COMMAND.format(subset='<subset>', path=path)}`")
            names = {name.rpartition("/")[0] for name in arrays}
            return manifest, {name: (arrays[f"{name}/codes"], arrays[f"{name}/k_effective"]) for name in names}
        tree = read_tree(path, FLOW_COMMAND)
        return dict(tree["manifest"]), {e: (v["codes"], v["k_effective"]) for e, v in tree["episodes"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, error, FLOW_COMMAND) from error


def _flow_tokens(episode: str, codes: Any, k_effective: Any, manifest: Mapping[str, Any]) -> FlowTokens:
    codes, k_effective = np.asarray(codes, np.uint16), np.asarray(k_effective, np.uint16)
    if codes.ndim != 2 or len(codes) != len(k_effective) or int(codes.max(initial=0)) >= int(manifest["num_codes"]):
        raise ValueError(f"codes of {episode} have shape {codes.shape} and maximum {codes.max(initial=0)}")
    return FlowTokens(
        episode=EpisodeId.parse(episode),
        codes=codes,
        k_effective=k_effective,
        k=int(manifest["k"]),
        num_codes=int(manifest["num_codes"]),
        tokenizer_digest=str(manifest["tokenizer_digest"]),
    )


# ------------------------------------------------------------------ what they were made of


DRAWN_BY = ("assets", "assets_digest", "look", "resolution")
"""Entries of an environment's fingerprint that decide what its pictures show."""


def made_of(episodes: Iterable[Episode]) -> dict[str, Any]:
    """Names the demonstrations of a subset, for a manifest.

    How many, their digest, the filter they went through, and what their pictures were drawn with, where it is recorded.
    """
    actions: dict[EpisodeId, np.ndarray] = {}
    drawn: dict[str, set[str]] = {name: set() for name in DRAWN_BY}
    for episode in episodes:
        actions[episode.id] = episode.actions
        for name, values in drawn.items():
            values.add(str(episode.fingerprint.get(name, "not recorded")))
    counts = {"episodes": len(actions), "steps": sum(map(len, actions.values()))}
    return {
        "filter": {"noop_norm": NOOP_NORM},
        "demos": {**counts, "digest": demos_digest(actions)},
        "drawn": {name: " and ".join(sorted(values)) for name, values in drawn.items()},
    }


def check_flow_manifest(path: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any], subset: Subset) -> None:
    """Raise ConfigError where flow tokens were made of something else than what is wanted, with both values."""
    found, needed = _flat(manifest), _flat(wanted)
    for name, value in needed.items():
        if found.get(name) != value:
            command = FLOW_COMMAND.format(subset=subset.value, path=path.with_suffix(".json"))
            raise ConfigError(
                f"{path}: {name} is {found.get(name)!r}, and this run needs {value!r}; make the tokens again with this "
                f"run's settings: `{command}`"
            )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value) if isinstance(value, Mapping) else {"": value}
        flat |= {f"{name}.{key}".rstrip("."): entry for key, entry in inner.items()}
    return flat
