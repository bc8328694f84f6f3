"""What `accelerate launch` and `torchrun` leave in the environment, and what becomes of a command under them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.checks import ConfigError
from experiment import devices
from experiment.launchers import is_further_rank, plain_words, started

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["scripts/train_baseline.py", "--subset", "object"]
RANKS = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "29500"}
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}


def test_a_plain_command_has_no_launcher() -> None:
    assert not started({"PATH": "/bin"})
    assert started(RANKS)
    assert started(ACCELERATE)
    assert is_further_rank({**RANKS, "RANK": "1"})
    assert not is_further_rank(RANKS)


def test_the_number_of_processes_is_a_setting() -> None:
    assert plain_words(WORDS, ACCELERATE) == WORDS
    assert plain_words(WORDS, RANKS) == [*WORDS, "trainer.processes=2"]
    said = [*WORDS, "trainer.processes=2"]
    assert plain_words(said, RANKS) == said
    on_cpu = {**ACCELERATE, "ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}
    assert plain_words(said, on_cpu) == [*said, "trainer.device=cpu"]


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["trainer.processes=4"], RANKS, "started 2 processes"),
        ([], {**RANKS, "WORLD_SIZE": "4"}, "4 processes on several machines"),
        ([], {**ACCELERATE, "MASTER_PORT": "29500"}, "add it: trainer.processes=2"),
        ([], {**ACCELERATE, "ACCELERATE_MIXED_PRECISION": "bf16"}, "ACCELERATE_MIXED_PRECISION=bf16"),
        ([], {**ACCELERATE, "ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP=true"),
    ],
)
def test_what_would_be_ignored_is_refused(words: list[str], environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plain_words(words, environment)


def test_stages_at_once_share_out_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "device_names", lambda: ("0", "1", "2", "5", "7"))
    assert devices.device_groups(1) == ("0", "1", "2", "5", "7")
    assert devices.device_groups(2) == ("0,1", "2,5")
    with pytest.raises(ConfigError, match=r"trainer\.processes=8; allowed here: 1 to 5"):
        devices.device_groups(8)
    monkeypatch.setattr(devices, "device_names", lambda: ())
    assert devices.device_groups(8) == ()


@pytest.mark.slow
def test_accelerate_as_typed(tmp_path: Path) -> None:
    """Its own command line reaches ours."""
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--num_processes", "2", "--cpu"]
    words = [str(ROOT / "scripts" / "train_baseline.py"), "--subset", "object", "preset=tiny", "--dry-run"]
    places = ["--output_dir", str(tmp_path / "outputs"), "--data_dir", str(tmp_path / "data")]
    for more, code, line in (
        ([], 2, "error: on the CPU accelerate starts one process"),
        (["trainer.processes=2"], 0, "to run   train baseline/object"),
    ):
        done = subprocess.run(
            [*launch, *words, *places, *more], capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)}
        )
        assert line in done.stdout + done.stderr
        assert (done.returncode == 0) == (code == 0)
