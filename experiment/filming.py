"""`nora-ecot film RUN --task 3 --init_state 7`: any evaluated episode as a film, from the published files alone."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.building import build
from configs.checks import ConfigError, check
from configs.choices import Mode, Subset
from configs.data import EnvConfig
from data_pipeline.contract import EnvironmentProblem
from experiment.flags import Parser

if TYPE_CHECKING:
    from evaluation.episodes import EpisodeResult
    from evaluation.identity import Identity
    from evaluation.simulators import SimulatorPool

# What reads evaluations and starts simulators is imported where it is used: `--help` answers at once.


def main(argv: Sequence[str], factory: str = "") -> int:
    """Replay one episode and write its film. Raises ConfigError, EnvironmentProblem. `factory`: see SimulatorPool."""
    from evaluation.records import read_episodes, read_summary
    from evaluation.simulators import LIBERO, SimulatorPool

    values = _parse(argv)
    summary = read_summary(values.run)
    result = _chosen(read_episodes(values.run, summary), values)
    with SimulatorPool(1, build(EnvConfig, summary["env"]), factory or LIBERO) as pool:
        return _film(values, summary, result, pool)


def _parse(argv: Sequence[str]) -> Namespace:
    parser = Parser(
        prog="nora-ecot film",
        description="an evaluated episode as a film, its recorded actions replayed in the simulator",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="e.g. outputs/eval_results/text_cot/object")
    parser.flag("task", type=int, required=True)
    parser.flag("init_state", type=int, required=True)
    parser.flag("mode", choices=[mode.value for mode in Mode], default=Mode.NO_THINK.value)
    parser.flag("seed", type=int, help="of the evaluation; needed where it has several")
    parser.flag("output", type=Path, help="an .mp4 file; default: named after the episode, in this folder")
    parser.flag("force", action="store_true", help="film on a machine with another environment too, and say so in it")
    values = parser.parse(argv)
    check(values.output is None or values.output.suffix == ".mp4", f"--output {values.output}; allowed: a name in .mp4")
    return values


def _chosen(results: Sequence[EpisodeResult], values: Namespace) -> EpisodeResult:
    """The episode that is meant. Raises ConfigError where there is none, several, or nothing to show."""
    from evaluation.episodes import Outcome

    def near(name: str, found: Sequence[EpisodeResult]) -> list[EpisodeResult]:
        """Those with the value asked for; names the values that there are."""
        asked = getattr(values, name.removesuffix("_id"))
        if asked is None:
            asked = found[0].key.seed
            check(all(r.key.seed == asked for r in found), f"--seed is needed: {_listed(name, found)}")
        kept = [r for r in found if getattr(r.key, name) == asked]
        check(bool(kept), f"no episode with --{name.removesuffix('_id')} {asked}; there are: {_listed(name, found)}")
        return kept

    check(bool(results), f"{values.run} has no episodes")
    found = results
    for name in ("mode", "task_id", "init_state", "seed"):
        found = near(name, found)
    (result,) = found
    if result.outcome is Outcome.ERROR:
        raise ConfigError(
            f"that episode ended in an error of the simulator ({result.reason}): there is nothing to show"
        )
    return result


def _listed(name: str, found: Sequence[EpisodeResult]) -> str:
    return ", ".join(str(value) for value in sorted({getattr(r.key, name) for r in found}))


def _film(values: Namespace, summary: Mapping[str, Any], recorded: EpisodeResult, pool: SimulatorPool) -> int:
    from evaluation import film
    from evaluation.episodes import episode_name
    from evaluation.identity import difference, identity_of
    from evaluation.ledger import Finished
    from evaluation.records import read_traces
    from evaluation.video import write_film

    there = identity_of(summary)
    here = _on_this_machine(there, pool, recorded.key.task_id)
    elsewhere = difference(there.environment, here.environment)
    if elsewhere and not values.force:
        raise EnvironmentProblem(
            f"this machine's environment is not the recording's (recorded and here: {elsewhere}), so the same actions "
            "may do something else. Film it where it was evaluated, or add --force, and the film says so"
        )
    output = values.output or Path(f"{episode_name(recorded.key)}.mp4")
    output.parent.mkdir(parents=True, exist_ok=True)

    def shown(episode: Finished, replayed: EpisodeResult, frames: film.Frames) -> None:
        if not values.force:
            film.check_same(recorded, replayed, "Add --force to film what happens here, and the film says so")
        differs = film.disagreement(recorded, replayed)
        remark = f" Filmed in another environment than it was evaluated in ({elsewhere})." if elsewhere else ""
        remark += f" It ended otherwise (recorded and filmed: {differs})." if differs else ""
        write_film(output, frames, film.caption(replayed, remark))
        print(f"{output}: {recorded.instruction}: {replayed.outcome.value} after {replayed.steps} steps.{remark}")

    trace = read_traces(values.run, [recorded.key])[recorded.key]
    film.replay([Finished(recorded, trace)], here, pool, shown)
    return 0


def _on_this_machine(identity: Identity, pool: SimulatorPool, task_id: int) -> Identity:
    """The same run in this machine's environment, perturbed alike."""
    from evaluation.messages import PERTURBATION

    plain = pool.describe(Subset(identity.subset), task_id).fingerprint
    perturbed = {k: v for k, v in identity.environment.items() if k == PERTURBATION}
    return replace(identity, environment=plain | perturbed)
