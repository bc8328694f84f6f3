"""`accelerate launch` and `torchrun`: their number of processes becomes `trainer.processes`, and one goes on alone.

Most stages are no work for ranks, and the one that is starts its own (training/processes.py). So the launcher's first
rank replaces itself by the plain command, and the others end at once. What else a launcher would set is refused: these
are settings of the command, and most are in a result's key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from configs.checks import check

_STARTED = ("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION")  # one or the other is set, by torchrun and by accelerate
_THEIRS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_ADDR")
_THEIR_PREFIXES = ("ACCELERATE_", "MASTER_PORT", "ROLE_", "TORCHELASTIC_")
_NEUTRAL = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "no",
    "ACCELERATE_USE_DEEPSPEED": "false",
    "ACCELERATE_USE_FSDP": "false",
}
_PROCESSES, _DEVICE = "trainer.processes=", "trainer.device="


def started(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process."""
    return any(name in environment for name in _STARTED)


def is_further_rank(environment: Mapping[str, str]) -> bool:
    """Whether the launcher started this process beside another that does the work."""
    return environment.get("RANK", "0") != "0"


def plain_words(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """A command's words with what its launcher was asked for. Raises ConfigError."""
    for name, neutral in _NEUTRAL.items():
        value = environment.get(name, neutral)
        check(value.lower() == neutral, f"the launcher says {name}={value}; say it by a key=value of this command")
    size, local = environment.get("WORLD_SIZE", ""), environment.get("LOCAL_WORLD_SIZE", "")
    check(size == local, f"{size} processes on several machines ({local} on this one); allowed: one machine")
    given = [word.removeprefix(_PROCESSES) for word in words if word.startswith(_PROCESSES)]
    check(
        bool(size or given) or "MASTER_PORT" not in environment,
        "on the CPU accelerate starts one process, whatever --num_processes says, and does not pass the number on; "
        f"add it: {_PROCESSES}2",
    )
    check(not size or given in ([], [size]), f"the launcher started {size} processes, but {_PROCESSES}{given}")
    out = [*words, *([_PROCESSES + size] if size and not given else [])]
    on_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    return [*out, *([f"{_DEVICE}cpu"] if on_cpu and not any(word.startswith(_DEVICE) for word in words) else [])]


def restart_plain() -> None:
    """Replace this process by the same command as if nobody had launched it. Raises ConfigError."""
    words = plain_words(sys.orig_argv[1:], os.environ)
    kept = {n: v for n, v in os.environ.items() if n not in _THEIRS and not n.startswith(_THEIR_PREFIXES)}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *words], kept)
