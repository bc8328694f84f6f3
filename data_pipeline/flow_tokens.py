"""Flow tokens on disk: a manifest and, per episode, one list of codes per step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.contract import EpisodeId, FlowTokens
from data_pipeline.sidecar import damaged, read_tree, write_tree

FLOW_COMMAND = "python scripts/preprocess_flow.py --subset {subset} --output {path}"
FLOW_TOKENS_FORMAT = "nora-ecot flow tokens 1"


def save_flow_tokens(path: Path, tokens: Mapping[EpisodeId, FlowTokens], manifest: Mapping[str, Any]) -> None:
    """Write flow tokens atomically.

    tokens: not empty; k, num_codes and tokenizer_digest must be the same everywhere (ValueError).
    manifest: where they come from (backend, camera, frame, tokenizer definition); plain JSON values.
    """
    kinds = {(t.k, t.num_codes, t.tokenizer_digest) for t in tokens.values()}
    if len(kinds) != 1:
        raise ValueError(f"flow tokens of one file must share k, num_codes and tokenizer; got {sorted(kinds)}")
    k, num_codes, digest = kinds.pop()
    header = {"format": FLOW_TOKENS_FORMAT, "k": k, "num_codes": num_codes, "tokenizer_digest": digest, **manifest}
    episodes = {
        str(e): {"k_effective": t.k_effective.tolist(), "codes": t.codes.tolist()} for e, t in sorted(tokens.items())
    }
    write_tree(path, {"manifest": header, "episodes": episodes})


def load_flow_tokens(path: Path) -> dict[EpisodeId, FlowTokens]:
    """Read what `save_flow_tokens` wrote. Raises EnvironmentProblem that names the file and the command to make it."""
    tree = read_tree(path, FLOW_COMMAND)
    try:
        return {EpisodeId.parse(e): _flow_tokens(e, entry, tree["manifest"]) for e, entry in tree["episodes"].items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path, error, FLOW_COMMAND) from error


def load_flow_manifest(path: Path) -> dict[str, Any]:
    """The header of a flow token file: backend, k, camera, frame, tokenizer, num_codes, digests."""
    tree = read_tree(path, FLOW_COMMAND)
    if "manifest" not in tree:
        raise damaged(path, KeyError("manifest"), FLOW_COMMAND)
    return dict(tree["manifest"])


def _flow_tokens(episode: str, entry: Mapping[str, Any], manifest: Mapping[str, Any]) -> FlowTokens:
    codes = np.asarray(entry["codes"], np.uint16)
    k_effective = np.asarray(entry["k_effective"], np.uint16)
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
