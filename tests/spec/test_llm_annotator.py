"""The language-model annotator as a person uses it: who pays, what is refused, where the key goes, after a kill."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.building import canonical
from configs.choices import Subset
from configs.slices import RewordSlice
from data_pipeline.llm_annotator import LEDGER
from data_pipeline.llm_money import Ledger
from experiment.cli import main
from tests.helpers import llm_server as say
from tests.helpers import toy_study
from tests.helpers.ecot_driver import DEMOS
from tests.helpers.reasoned import write_reasoned

ROOT = Path(__file__).resolve().parents[2]
CANARY = "sk-canary-42-0123456789"
ENV = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "HOME": os.environ["HOME"]}


@pytest.fixture
def server():
    with say.serving() as running:
        yield running


@pytest.fixture
def project(tmp_path, monkeypatch):
    toy_study.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ecot(words):
    return main("generate_ecot", ["--subset", "object", *shlex.split(words)])


def stages(folder):
    return {path.name for path in (folder / "outputs" / ".store").iterdir()}


# ------------------------------------------------------------------ who pays


def test_a_key_in_the_environment_alone_never_spends(project, monkeypatch, capsys):
    assert ecot("annotator=llm --dry-run") == 0, "it needs no key to say what it would cost"
    assert "LLM calls, reword object" in capsys.readouterr().out
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert ecot("") == 0
    assert "reword" not in stages(project)
    assert ecot("annotator=llm") == 0
    assert "reword" in stages(project)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--api-key ''", "no value"),
        ("--api-key --dry-run", "no value"),
        ("--api-key preset=tiny", "no value"),
        ("--api-key A --llm-api-key B", "two different API keys"),
        ("--max-usd 5", "--max-usd without a language model"),
        ("--model gpt-4", "--model without a language model"),
        ("annotator=llm", "needs a key"),
        ("annotator=gpt", "annotator.kind='gpt'"),
        ("--api-key K annotator=rules", "keep one"),
        ("--api-key K --model a --llm-model b", "two flags say annotator.model"),
        ("--api-key K --model some-model", "price of model 'some-model'"),
        ("--api-key K --base-url http://127.0.0.1:1/v1", "not known"),
        ("--api-key K --base-url ftp://x", "annotator.base_url='ftp://x'"),
        ("--api-key K --base-url https://me:secret@host/v1", "a secret goes into --llm-api-key"),
        ("--api-key 'a b'", "odd characters"),
        ("--api-key K annotator.json_mode=xml", "annotator.json_mode='xml'"),
    ],
)
def test_what_is_refused_before_anything_runs(project, capsys, words, says):
    assert ecot(words) == 2
    assert says in capsys.readouterr().err
    assert not (project / "outputs").exists()


def test_commands_without_a_language_model_take_no_key(project, capsys):
    assert main("evaluate", ["--api-key", CANARY]) == 2
    said = capsys.readouterr().err
    assert "evaluate calls no language model" in said
    assert CANARY not in said


def test_flags_reach_the_stage_and_only_what_matters_its_key(project):
    assert ecot("--api-key K --model gpt-4 --max-usd 3 --concurrency 2 --output a.json") == 0
    assert ecot("--api-key OTHER --llm-model gpt-4 --max-usd 9") == 0
    (entry,) = (project / "outputs" / ".store" / "reword").iterdir()
    config = json.loads((entry / "manifest.json").read_text())["config"]
    assert config["model"] == "gpt-4"
    assert not {"max_usd", "concurrency", "folder"} & set(config)
    assert ecot("--api-key K --model gpt-4o") == 0
    assert len(list((project / "outputs" / ".store" / "reword").iterdir())) == 2


def test_phases_without_reasoning_ask_nothing(project, capsys):
    assert main("run_experiment", ["--phase", "baseline", "--subset", "object", "--llm-api-key", CANARY]) == 0
    assert "reword" not in stages(project)
    assert "reworded" not in capsys.readouterr().out


def test_the_dry_run_estimates_first_and_counts_once_the_rules_have_written(project, capsys):
    assert ecot("--api-key K data.source=expert --dry-run") == 0
    said = capsys.readouterr().out
    assert "an estimate" in said
    assert not (project / "outputs" / ".llm_cache").exists()
    assert ecot("") == 0
    capsys.readouterr()
    assert ecot("--api-key K data.source=expert --dry-run") == 0
    said = capsys.readouterr().out
    assert "0 calls (0 replies kept from before)" in said, "the toy rules wrote about no demonstration"


# ------------------------------------------------------------------ the key


def processes(driver):
    """(pid, command line, environment) of a process and all its descendants."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    family = {driver}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    for pid in family:
        try:
            folder = Path(f"/proc/{pid}")
            yield pid, (folder / "cmdline").read_bytes().decode(), (folder / "environ").read_bytes().decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_key_reaches_one_process_and_nothing_else(tmp_path, server):
    server.otherwise = say.after(
        0.4, lambda handler, body: handler.reply(200, {**say.good(body), "system_fingerprint": f"echo {CANARY}"})
    )
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "ecot_driver.py"), "--subset", "object"]
    command += ["--api-key", CANARY, "--model", "my/model:1", "--base-url", server.url, "--concurrency", "1"]
    command += ["annotator.usd_per_mtok_in=1", "annotator.usd_per_mtok_out=1", "--output", "mine.json"]
    env = {**ENV, "OPENAI_API_KEY": "of-the-environment"}
    output = tmp_path / "said.txt"
    with output.open("w") as said:
        driver = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=said, stderr=subprocess.STDOUT)
        seen = []
        while driver.poll() is None:
            if server.seen:  # long after the driver took the key off its command line
                seen += list(processes(driver.pid))
            time.sleep(0.05)
    assert driver.returncode == 0, output.read_text()
    assert set(server.keys) == {f"Bearer {CANARY}"}
    assert len(server.seen) == DEMOS
    assert not [line for _, line, _ in seen if CANARY in line]
    holders = {
        line for _, line, environ in seen if CANARY in environ
    }  # between fork and exec a child shows its parent's
    assert len(holders) == 1
    assert "net" in holders.pop().split("\0")
    workers = {line for _, line, _ in seen if "--kind" in line}
    assert workers
    leaked = [p for p in tmp_path.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]
    assert not leaked
    assert f"{DEMOS} calls (0 replies kept from before)" in output.read_text()
    assert "kept the rules' words: none" in output.read_text()
    assert "now the gripper is" in (tmp_path / "mine.json").read_text()


@pytest.mark.slow
def test_a_wrong_key_stops_the_command_with_code_2_and_is_not_repeated_by_it(tmp_path, server):
    server.otherwise = say.error(401, f"Incorrect API key provided: {CANARY}.")
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "ecot_driver.py"), "--subset", "object"]
    command += [f"--api-key={CANARY}", "--base-url", server.url]
    command += ["annotator.usd_per_mtok_in=0", "annotator.usd_per_mtok_out=0"]
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "the key is wrong" in done.stdout
    assert CANARY not in done.stdout + done.stderr


# ------------------------------------------------------------------ a kill

STAGE = """
import json, sys
from pathlib import Path
from configs.building import build
from configs.slices import RewordSlice
from data_pipeline.contract import StageContext
from data_pipeline.llm_annotator import run_reword
work, rules = Path(sys.argv[1]), Path(sys.argv[2])
work.mkdir(exist_ok=True)
run_reword(build(RewordSlice, json.loads(sys.argv[3])), StageContext(work, {"annotate": rules}))
"""


def stage(tmp_path, server, work):
    config = RewordSlice(
        Subset.OBJECT, "m", server.url, "schema", 0, 1, 1.0, 1.0, 20.0, 2, folder=str(tmp_path / "cache")
    )
    words = [str(tmp_path / work), str(tmp_path), json.dumps(canonical(config, key_only=False))]
    return subprocess.Popen([sys.executable, "-c", STAGE, *words], cwd=ROOT, env=ENV)


def test_after_a_kill_only_what_was_in_flight_is_asked_again(tmp_path, server):
    demos, at_once = 10, 2
    write_reasoned(tmp_path / "annotations.json", demos)
    server.otherwise = say.after(0.05)
    for kill_at in (1, 6):
        process = stage(tmp_path, server, "killed")
        while len(server.seen) < kill_at:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kept = len(list((tmp_path / "cache").glob("??/*.json")))
    assert kept >= len(server.seen) - 2 * at_once
    assert stage(tmp_path, server, "killed").wait(timeout=60) == 0
    assert len(server.seen) <= demos + 2 * at_once
    assert len(list((tmp_path / "cache").glob("??/*.json"))) == demos
    in_flight = len(server.seen) - demos
    spent = Ledger(tmp_path / "cache" / LEDGER).spent()
    assert spent >= demos * 150e-6 + in_flight * 1000e-6, "calls that were killed count at their worst"
    before = len(server.seen)
    assert stage(tmp_path, server, "again").wait(timeout=60) == 0
    assert len(server.seen) == before
    for name in ("annotations.json", "quality.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
