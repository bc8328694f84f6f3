"""`--num_workers`: one flag for the simulator processes of every stage, and what is right without it."""

from dataclasses import replace

import pytest

from configs.checks import ConfigError
from configs.schema import ExecutorConfig
from experiment import compose, settings
from experiment.flags import FLAGS, Parser


def parse(command, *argv):
    parser = Parser(prog=command)
    FLAGS[command](parser)
    parser.add_argument("overrides", nargs="*")
    return parser.parse(argv)


def config(cores):
    return replace(compose.compose(compose.find_phase("baseline"), []), executor=ExecutorConfig(cores=cores))


@pytest.mark.parametrize(("cores", "subsets", "workers"), [(2, 1, 2), (2, 4, 1), (16, 4, 4), (1, 4, 1)])
def test_without_the_flag_the_subsets_of_a_run_share_the_cores(cores, subsets, workers):
    values = parse("generate_demos", "--subset", "object")
    assert settings.data_workers(values, config(cores), subsets) == workers


def test_the_flag_wins_and_is_checked():
    assert settings.data_workers(parse("run_experiment", "--num-workers", "3"), config(8), 4) == 3
    with pytest.raises(ConfigError, match="--num_workers=0 is out of range"):
        settings.read_overrides(parse("run_experiment", "--num_workers", "0"))


@pytest.mark.parametrize("command", ["run_experiment", "evaluate"])
def test_the_flag_reaches_evaluation_unless_it_has_its_own_number(command):
    needed = ["--model_type", "baseline", "--libero_subset", "object", "--lora_path", "x"]
    argv = needed if command == "evaluate" else []

    def sim_workers(*more):
        preset, _, overrides = settings.read_overrides(parse(command, *argv, "preset=tiny", *more))
        return compose.compose(compose.find_phase("baseline"), [f"preset={preset}", *overrides]).eval.sim_workers

    assert sim_workers("--num_workers", "5") == 5
    assert sim_workers("--num_workers", "5", "eval.sim_workers=3") == 3
    assert sim_workers() == 2
