"""The command line: flags in both spellings (`--data_dir`, `--data-dir`), then `key=value` overrides.

`main(command, argv) -> exit code`. Heavy imports happen in the command that needs them.
"""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from configs.checks import ConfigError, check
from data_pipeline.contract import EnvironmentProblem, Interrupted
from experiment import launchers, secret

EXIT_USAGE = 2
EXIT_INTERRUPTED = 75
EXIT_ENVIRONMENT = 78
ASK_MODELS = ("run_experiment", "generate_ecot")  # commands that take an API key
COMMANDS = {
    "run_experiment": "any part of the study, end to end",
    "generate_demos": "demonstrations by the scripted expert, in LIBERO's layout",
    "regenerate_libero": "replay demonstrations: sharper images, no no-ops, no failures",
    "generate_ecot": "chain-of-thought annotations",
    "preprocess_flow": "optical flow as tokens",
    "train": "one adapter of one phase",
    "evaluate": "rollouts of a trained adapter, or of a control",
    "merge": "an adapter and its base as one model folder, checked against the two",
    "make_report": "the table, again, from the stored results",
    "make_base": "the tiny base that comes with the project, made again (hours)",
    "failures": "why episodes of evaluations failed: how far each came",
    "film": "any evaluated episode as a film, from its records",
    "inspect": "a page and a contact sheet of the demonstrations, to look at before training",
    "download": "where the official data and assets come from; --use-hub fetches them",
    "doctor": "what this machine has and lacks",
    "worker": "(internal) runs stages for a driver",
    "run-stage": "(internal) runs one stage from its spec file",
}


def main(command: str, argv: Sequence[str], *, phase: str = "", api_key: str = "") -> int:
    """Run one command. `phase` is the phase of a train script. Returns the exit code; problems go to stderr."""
    try:
        return _dispatch(command, list(argv), phase, api_key)
    except ConfigError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return EXIT_USAGE
    except EnvironmentProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    except (Interrupted, KeyboardInterrupt):
        print("interrupted; the same command resumes", file=sys.stderr)
        return EXIT_INTERRUPTED


def _dispatch(command: str, argv: list[str], phase: str, api_key: str) -> int:
    if command == "worker":
        return _worker(argv)
    if command == "run-stage":
        return _run_stage(argv)
    if command == "doctor":
        from experiment import doctor

        return doctor.main(argv)
    if command == "download":
        from experiment import download

        return download.main(argv)
    if command == "merge":
        from experiment import merging

        return merging.main(argv)
    if command == "failures":
        from experiment import failures

        return failures.main(argv)
    if command == "film":
        from experiment import filming

        return filming.main(argv)
    from experiment import commands

    clean, given = secret.strip(argv)
    key = secret.the_one(given) or api_key
    check(not key or command in ASK_MODELS, f"{command} calls no language model and takes no API key")
    return commands.run(command, clean, phase, key)


def script(command: str, *, phase: str = "") -> int:
    """Entry point of the files in scripts/: reads sys.argv.

    Where a secret was given, the process replaces itself by one without it, so that no process list shows it; where a
    launcher started it, by one that nobody launched.
    """
    if launchers.started(os.environ):
        if launchers.is_further_rank(os.environ):
            return 0
        try:
            launchers.restart_plain()
        except ConfigError as problem:
            print(f"error: {problem}", file=sys.stderr)
            return EXIT_USAGE
    _, given = secret.strip(sys.argv[1:])
    if len(set(given)) == 1 and given[0]:  # anything else is an error, which `main` tells
        secret.restart_without(given[0])
    return main(command, sys.argv[1:], phase=phase, api_key=secret.handed_over())


def console() -> NoReturn:
    """The `nora-ecot` command: its first argument names what to do."""
    names = [*COMMANDS, "run"]
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: nora-ecot COMMAND [flags] [key=value ...]\n")
        print("\n".join(f"  {name:<18} {text}" for name, text in COMMANDS.items() if "internal" not in text))
        raise SystemExit(0)
    command = sys.argv.pop(1)
    if command not in names:
        near = difflib.get_close_matches(command, names, 1)
        print(f"error: unknown command {command!r}; allowed: {', '.join(near or names)}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)
    raise SystemExit(script("run_experiment" if command == "run" else command))


def typed_command() -> str:
    """The command line as typed, without secrets, for the hint that says how to resume."""
    argv, _ = secret.strip(sys.orig_argv[1:])
    return shlex.join(["python", *argv])


def _worker(argv: list[str]) -> int:
    from experiment.flags import Parser
    from experiment.worker import serve

    parser = Parser(prog="worker")
    parser.flag("kind")  # for people who look at the process list
    parser.flag("events-fd", type=int, required=True)
    parser.flag("parent", type=int, required=True)
    values = parser.parse(argv)
    return serve(values.events_fd, values.parent)


def _run_stage(argv: list[str]) -> int:
    from experiment.flags import Parser
    from experiment.worker import run_spec_file

    parser = Parser(prog="run-stage")
    parser.add_argument("spec", type=Path)
    parser.flag("store", type=Path, required=True)
    values = parser.parse(argv)
    return run_spec_file(values.store, values.spec)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
