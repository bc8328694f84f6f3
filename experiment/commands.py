"""What the scripts do: parse, then ask for stages. Here: run_experiment and the train scripts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from configs.checks import check
from configs.choices import STUDY, Mode
from configs.phases import PhaseSpec
from data_pipeline.libero_utils import parse_subset
from experiment import compose, datasets, inspecting, making_base, results
from experiment.cli import COMMANDS
from experiment.data_stages import Data, expert_views
from experiment.flags import FLAGS, Parser
from experiment.given import annotations_given
from experiment.given_flow import flow_tokens_given
from experiment.places import Places, evaluate_view, train_view
from experiment.plan import Result, Run, evaluate_node, replay_node, train_node
from experiment.settings import choice_of, data_workers, places_of, prepare, required_subset
from experiment.stages import StageNode
from experiment.store import Store
from experiment.study import Study, run_study
from experiment.tables import table_group, table_title
from experiment.views import View


def run(command: str, argv: Sequence[str], phase: str = "", api_key: str = "") -> int:
    """Parse a command's flags and do it. Returns the exit code. Raises ConfigError, EnvironmentProblem."""
    script = f"scripts/{f'{command}_{phase}' if phase else command}.py"
    parser = Parser(
        prog=script if command != "inspect" else "nora-ecot inspect",
        description=f"{COMMANDS[command]}. Further settings: key=value, e.g. preset=tiny lora.rank=8.",
        allow_abbrev=False,
    )
    FLAGS[command](parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of configs/, see configs/schema.py")
    values = parser.parse(argv)
    for word in values.overrides:
        compose.override_value(word)  # a stray word is named before anything that is missing
    values.api_key = api_key
    if phase:
        values.phase = phase
    return _ACTIONS[command](values)


def _experiment(values: Namespace) -> int:
    check(bool(values.phase) != values.all_phases, "give --phase NAME or --all-phases (one of them)")
    check(bool(values.subset) != values.all_subsets, "give --subset NAME or --all-subsets (one of them)")
    phases = list(compose.phase_files().values()) if values.all_phases else [compose.find_phase(values.phase)]
    subsets = list(STUDY) if values.all_subsets else [parse_subset(values.subset)]
    seeds = [f"seed={text}" for text in values.seeds.split(",")] if values.seeds else [""]
    places = places_of(values)
    runs: list[Run] = []
    said: dict[str, None] = {}
    for phase in phases:
        for seed in seeds:
            prepared = prepare(phase, values, subsets, [seed] if seed else [])
            said.update(dict.fromkeys(prepared.said))
            config, sources = prepared.resolved.config, prepared.resolved.sources
            runs += [Run(config, subset, sources, prepared.variant) for subset in subsets]
    if values.phase:
        _check_reasoning_flags(values, runs[0].config.phase)
    workers = data_workers(values, runs[0].config, len(runs[0].sources))
    study = _study(runs, places, workers, tuple(said))
    return run_study(study, choice_of(values, runs[0].config)).code


def _study(runs: Sequence[Run], places: Places, workers: int, said: tuple[str, ...]) -> Study:
    """Adapters, evaluations and everything they need; the report is added when the store is known."""
    config, sources = runs[0].config, runs[0].sources
    title = table_title(config, sources)
    results: list[Result] = []
    views: list[View] = []
    group = ""
    for run in runs:
        train = train_node(run, places, workers)
        evaluate = evaluate_node(run, train, train.inputs.get("base"))
        results.append(Result(evaluate.spec.slug, evaluate, train))
        group = table_group(title, evaluate)
        views += [train_view(places, train), evaluate_view(places, evaluate, group)]
    for run in {run.subset: run for run in runs if Mode.NO_THINK in run.config.eval.modes}.values():
        replay = replay_node(run, places, workers)
        results.append(Result(replay.spec.slug, replay, None))
        views.append(evaluate_view(places, replay, table_group(title, replay)))
    views += expert_views(Data(config, sources, places, workers))
    return Study(
        places=places,
        targets=tuple(result.evaluate for result in results),
        views=tuple(views),
        results=tuple(results),
        group=group,
        title=title,
        preset=config.preset,
        phase_order=tuple(compose.phase_files()),
        decisions=said,
    )


def _train(values: Namespace) -> int:
    check(bool(values.phase), "give --phase NAME")
    subset, places = required_subset(values), places_of(values)
    prepared = prepare(compose.find_phase(values.phase), values, [subset])
    config, sources = prepared.resolved.config, prepared.resolved.sources
    _check_reasoning_flags(values, config.phase)
    data = Data(config, sources, places, data_workers(values, config, len(sources)))
    substitutes: dict[str, StageNode] = {}
    said: tuple[str, ...] = ()
    if values.ecot_annotations:
        given = annotations_given(Store(places.store), Path(values.ecot_annotations), subset, data.reasoning(subset))
        substitutes["annotate"], said = given.node, given.said
        config = replace(config, phase=config.phase.leaving_out(given.absent))
    if values.flow_tokens:
        substitutes["tokens"] = flow_tokens_given(Store(places.store), Path(values.flow_tokens), data.tokens(subset))
    run_ = Run(config, subset, sources, prepared.variant, substitutes)
    node = train_node(run_, places, data.workers)
    study = Study(
        places,
        (node,),
        (train_view(places, node), *expert_views(data)),
        title=node.label,
        decisions=(*prepared.said, *said),
    )
    done = run_study(study, choice_of(values, config))
    if done.code == 0 and not values.dry_run:
        print(f"adapter: {places.output_dir / run_.slug / 'checkpoint-final'}")
    return done.code


def _check_reasoning_flags(values: Namespace, phase: PhaseSpec) -> None:
    """Raise ConfigError for flags of the reasoning where a phase writes none: they would name a run they left alone."""
    given = [f"--{name}" for name in ("reasoning_dropout_prob", "cot_loss_weight") if getattr(values, name, None)]
    check(
        not given or bool(phase.sources),
        f"{', '.join(given)}: phase {phase.name} writes no reasoning; for phases that do, such as text_cot and "
        "text_flow_cot; leave it out",
    )


_ACTIONS: dict[str, Callable[[Namespace], int]] = {
    "run_experiment": _experiment,
    "generate_demos": datasets.generate_demos,
    "regenerate_libero": datasets.regenerate_libero,
    "generate_ecot": datasets.generate_ecot,
    "preprocess_flow": datasets.preprocess_flow,
    "train": _train,
    "evaluate": results.evaluate,
    "make_report": results.make_report,
    "make_base": making_base.make_base,
    "inspect": inspecting.inspect,
}
