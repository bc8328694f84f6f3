"""An API key on its way from the command line to the one process that uses it.

It never stands in a configuration, a file, a log or a child's command line: the flag is taken out of argv, the driver
replaces itself by a process without it and gets the key through a pipe, and only workers of the kind NETWORK have it in
their environment.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NoReturn

from configs.checks import ConfigError, check
from configs.schema import ExperimentConfig

FLAGS = ("--llm-api-key", "--llm_api_key", "--api-key", "--api_key")
NETWORK = "net"  # the kind of worker whose stages call paid services
_PIPE_VARIABLE = "NORA_ECOT_KEY_FD"
_OVERRIDE = re.compile(r"[+~]?(" + "|".join(f.name for f in fields(ExperimentConfig)) + r")(\.\w+)*=")


@dataclass(frozen=True, repr=False)
class Secret:
    """A value and the environment variable that carries it; "" where there is none."""

    variable: str = ""
    value: str = ""

    def environment(self, inherited: Mapping[str, str], kind: str) -> dict[str, str]:
        """What a worker of this kind inherits: the variable where it is for it, and nowhere else."""
        others = {name: value for name, value in inherited.items() if name != self.variable}
        return {**others, self.variable: self.value} if self.value and kind == NETWORK else others


def strip(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(argv without secret flags, the secrets).

    A flag without a value (an unset variable) gives "" and swallows neither another flag nor a `key=value`.
    """
    clean: list[str] = []
    secrets: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name not in FLAGS:
            clean.append(word)
        elif equals or not words or words[0].startswith("-") or _OVERRIDE.match(words[0]):
            secrets.append(value)
        else:
            secrets.append(words.pop(0))
    return clean, secrets


def the_one(secrets: Sequence[str]) -> str:
    """The key that was given, "" where none was. Raises ConfigError where a flag had no value, or two differ."""
    check(all(secrets), "--llm-api-key has no value (is the variable empty?); leave the flag out to use the rules")
    check(len(set(secrets)) < 2, "two different API keys are given; keep one")
    return secrets[0] if secrets else ""


def restart_without(secret: str) -> NoReturn:
    """Replace this process by the same command without secret flags; the key waits for it in a pipe."""
    reader, writer = os.pipe()
    os.write(writer, secret.encode())
    os.close(writer)
    os.set_inheritable(reader, True)  # noqa: FBT003
    os.environ[_PIPE_VARIABLE] = str(reader)
    original, _ = strip(sys.orig_argv[1:])
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *original])


def handed_over() -> str:
    """The key that `restart_without` left for this process; "" where there is none. Can be taken once."""
    descriptor = os.environ.pop(_PIPE_VARIABLE, "")
    if not descriptor:
        return ""
    try:
        with os.fdopen(int(descriptor), "rb") as pipe:
            return pipe.read().decode()
    except (ValueError, OSError) as problem:
        raise ConfigError(f"{_PIPE_VARIABLE}={descriptor!r} is not a pipe of ours; unset it") from problem
