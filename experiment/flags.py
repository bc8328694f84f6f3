"""Every flag of every script."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from configs.checks import ConfigError
from configs.choices import STUDY, Control
from configs.data import AnnotatorConfig
from configs.perturbation import Kind
from configs.schema import EvalConfig
from data_pipeline.libero_utils import SUITE_OF

REGENERATED_PX = 256
"""What `regenerate_libero` draws, whatever the preset says."""

_PERTURB = f"{', '.join(Kind)}, with a strength 1, 2 or 3 (camera:3; 2 if left out); paired with the plain episodes"


class Parser(argparse.ArgumentParser):
    """Every flag in both spellings; problems are ConfigErrors with the nearest flag."""

    def flag(self, name: str, **options: object) -> None:
        """Add `--a_b`, also as `--a-b`."""
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}"))
        self.add_argument(*spellings, dest=name.replace("-", "_"), **options)  # pyright: ignore[reportArgumentType]

    def error(self, message: str) -> NoReturn:
        """Argparse's own complaints, as ConfigError."""
        raise ConfigError(f"{message}; see {self.prog} --help")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Flags and overrides in any order, `~` expanded in flags. Raises ConfigError for what is neither."""
        values, unknown = self.parse_known_intermixed_args(list(argv))
        if unknown:
            flags = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0].partition("=")[0], flags, 1)
            raise ConfigError(
                f"unknown flag {unknown[0]}; did you mean {near[0]}?" if near else f"unknown flag {unknown[0]}"
            )
        for flag, text in vars(values).items():
            if isinstance(text, str) and text.startswith("~"):  # the shell does so in `--data ~/x`, not in `--data=~/x`
                setattr(values, flag, os.path.expanduser(text))
        return values


def _places_flags(parser: Parser) -> None:
    parser.flag("data_dir", default="./data", help="demonstrations: libero_<subset>/*.hdf5")
    parser.flag("output_dir", default="./outputs", help="store, adapters, results")
    parser.flag("dry_run", action="store_true", help="say what would run, and why")
    workers = "simulator processes of a stage, evaluation too; default: the cores, shared by the subsets of the run"
    parser.flag("num_workers", type=int, help=f"{workers}; evaluation {EvalConfig.sim_workers}")


def _skip_bad_flag(parser: Parser) -> None:
    text = "leave out raw demonstrations that cannot be used, and list them"
    parser.flag("skip-bad", action="store_const", const="true", help=text)


def _retry_flag(parser: Parser) -> None:
    parser.flag("retry-errors", action="store_true", help="run episodes again that ended in an error of the simulator")


def _subset_flag(parser: Parser) -> None:
    parser.flag("subset", help="spatial, object, goal, long (libero_10 is long)")


def _run_flags(parser: Parser) -> None:
    parser.flag("phase", help="a phase of configs/, or the path of a phase's YAML file")
    _subset_flag(parser)
    parser.flag("all-phases", action="store_true")
    parser.flag("all-subsets", action="store_true")
    parser.flag("seeds", help="training seeds, e.g. 0,1,2")
    parser.flag("name", default="", help="names this variant's folders; default: from the changed settings")
    parser.flag("only", default="", help="stages to bring up to date, with what they need: annotate,tokens")
    parser.flag("from", default="", help="redo this stage and everything after it")
    parser.flag("force", default="", help="redo these stages (and what depends on them)")
    _optimisation_flags(parser)
    parser.flag("num_trials", help="episodes per task")
    parser.flag("mode", choices=("no_think", "think", "both"))
    parser.flag("perturb", help=_PERTURB)
    _retry_flag(parser)
    _skip_bad_flag(parser)
    _llm_flags(parser)
    _places_flags(parser)


def _optimisation_flags(parser: Parser) -> None:
    for name in ("lora_rank", "learning_rate", "max_train_steps", "reasoning_dropout_prob", "cot_loss_weight"):
        parser.flag(name)


def _llm_flags(parser: Parser) -> None:
    for name in ("llm-api-key", "api-key"):
        parser.flag(name, help="has a language model reword the reasoning; taken off the command line at once")
    parser.flag("llm-model", help=f"default {AnnotatorConfig.model}; also --model")
    parser.flag("llm-base-url", help="of any server that speaks OpenAI's chat completions; also --base-url")
    parser.flag("max-usd", help=f"that all calls of an output directory may cost; default {AnnotatorConfig.max_usd:g}")
    parser.flag("concurrency", help=f"calls at once; default {AnnotatorConfig.concurrency}")
    for name in ("model", "base-url"):
        parser.flag(name, help=argparse.SUPPRESS)


def _demos_flags(parser: Parser) -> None:
    _subset_flag(parser)
    parser.flag("episodes_per_task")
    parser.flag("image_resolution")
    _places_flags(parser)


def _regenerate_flags(parser: Parser) -> None:
    parser.flag("libero_task_suite", required=True, help=f"{', '.join(SUITE_OF[s] for s in STUDY)}, or a subset's name")
    parser.flag("libero_raw_data_dir", required=True)
    parser.flag("libero_target_dir", required=True)
    parser.flag("image_resolution", help=f"pixels, square; default {REGENERATED_PX}")
    _skip_bad_flag(parser)
    _places_flags(parser)


def _ecot_flags(parser: Parser) -> None:
    _subset_flag(parser)
    parser.flag("output", help="also write the annotations here")
    _llm_flags(parser)
    _places_flags(parser)


def _flow_flags(parser: Parser) -> None:
    _subset_flag(parser)
    parser.flag("output", help="also write the tokens here")
    parser.flag("backend", choices=("auto", "sim", "raft", "dis_chain"))
    _places_flags(parser)


def _train_flags(parser: Parser) -> None:
    parser.flag("phase", help="a phase of configs/, or the path of a phase's YAML file")
    _subset_flag(parser)
    parser.flag("name", default="")
    _optimisation_flags(parser)
    parser.flag("ecot_annotations", help="a file of scripts/generate_ecot.py instead of the stage's own")
    parser.flag("flow_tokens", help="a file of scripts/preprocess_flow.py instead of the stage's own")
    _places_flags(parser)


def _evaluate_flags(parser: Parser) -> None:
    controls = ", ".join(control.value for control in Control)
    parser.flag("model_type", required=True, help=f"the phase of the adapter; full; or a control: {controls}")
    parser.flag("libero_subset", required=True, help="spatial, object, goal, long (libero_10 is long), or 90")
    text = "an adapter, e.g. outputs/<phase>/<subset>/checkpoint-final; of full: a model's folder or hub id[@revision]"
    parser.flag("lora_path", help=text)
    parser.flag("statistics", help="of full: a file of action statistics, or nora; default: what comes with the model")
    parser.flag("unnorm_key", help="of full: the entry of those statistics; default: the suite's")
    parser.flag("tasks", help="some of the subset's tasks, e.g. 0,3 or 0-34,38; a row of their own in the table")
    parser.flag("num_trials", help="episodes per task; the i-th begins in the i-th official initial state")
    parser.flag("mode", choices=("no_think", "think", "both"))
    parser.flag("perturb", help=_PERTURB)
    parser.flag("protocol", choices=("standard", "nora"))
    _retry_flag(parser)
    parser.flag("execute", help="steps executed of each chunk before the next query, at most the adapter's horizon")
    _places_flags(parser)


def _base_flags(parser: Parser) -> None:
    parser.flag("target", default="training/tiny_base", help="where the base goes; default: %(default)s")
    _places_flags(parser)


def _inspect_flags(parser: Parser) -> None:
    _subset_flag(parser)
    parser.flag("all-subsets", action="store_true")
    parser.flag("data", help="a folder of demonstrations (*.hdf5), instead of the study's own")
    parser.flag("annotations", action="store_true", help="show the chains of thought: tokens per tag, a page, films")
    parser.flag("vocabulary", help="with --annotations, qwen.tiktoken: count tokens by Qwen's own vocabulary")
    parser.flag("flow", action="store_true", help="show the optical flow and its tokens: errors, a page, films")
    parser.flag("flow_tokens", help="with --flow, a file of scripts/preprocess_flow.py instead of the stage's own")
    parser.flag("demos", type=int, help="demonstrations of each task that --annotations or --flow films; default 1")
    parser.flag("output", help="where the pages go; default: <output_dir>/inspect")
    _places_flags(parser)


FLAGS: dict[str, Callable[[Parser], None]] = {
    "run_experiment": _run_flags,
    "generate_demos": _demos_flags,
    "regenerate_libero": _regenerate_flags,
    "generate_ecot": _ecot_flags,
    "preprocess_flow": _flow_flags,
    "train": _train_flags,
    "evaluate": _evaluate_flags,
    "make_report": _places_flags,
    "make_base": _base_flags,
    "inspect": _inspect_flags,
}
"""Command -> what adds its flags."""
