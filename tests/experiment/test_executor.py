import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiment.executors import LocalExecutor, critical_path
from experiment.progress import PlainDisplay
from experiment.stages import topological
from experiment.store import Store
from tests.helpers.toy_stages import node


def execute(tmp_path, *targets, cores=2, retries=2, published=None, devices=()):
    store = Store(tmp_path / ".store")
    nodes = topological(targets)
    done = [] if published is None else published
    executor = LocalExecutor(store, cores, retries, PlainDisplay(), devices)
    outcome = executor.run(nodes, {n.key: 1.0 for n in nodes}, done.append)
    return store, outcome


def result(store, target):
    return int((store.entry("toy", target.key) / "result.txt").read_text())


def test_a_graph_runs_in_order_and_publishes_each_stage(tmp_path):
    a, b = node("a"), node("b", worker="torch")
    c = node("c", inputs={"a": a, "b": b})
    published = []
    store, outcome = execute(tmp_path, c, published=published)
    assert outcome.exit_code() == 0
    assert result(store, c) == 9
    assert [n.spec.slug for n in published][-1] == "c"
    assert "a stage may print c" in next((tmp_path / ".store" / "logs").glob("toy-c-*.log")).read_text()


def test_one_worker_serves_many_stages(tmp_path):
    trace = tmp_path / "trace"
    execute(tmp_path, *[node(f"n{i}", {"_trace": str(trace)}) for i in range(5)], cores=1)
    assert len({line.split()[1] for line in trace.read_text().splitlines()}) == 1


def test_a_killed_stage_resumes(tmp_path):
    trace, flag = tmp_path / "trace", tmp_path / "flag"
    target = node("a", {"_trace": str(trace), "_kill_once_at": 1, "_flag": str(flag)})
    store, outcome = execute(tmp_path, target)
    assert outcome.exit_code() == 0
    assert result(store, target) == 3
    assert [line.split()[2] for line in trace.read_text().splitlines()] == ["0", "2"]


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("config", 2, "lora.rnak"),
        ("environment", 78, "no OpenGL"),
        ("lost", 1, "no demonstration of task 3"),
        ("bug", 1, "a bug of this stage"),
        ("kill", 1, "signal 9"),
    ],
)
def test_failures_keep_their_code_and_stop_only_what_depends_on_them(tmp_path, how, code, says):
    bad = node("bad", {"how": how}, function="fail")
    behind, other = node("behind", inputs={"bad": bad}), node("other")
    store, outcome = execute(tmp_path, behind, other, retries=1)
    assert outcome.exit_code() == code
    assert says in outcome.failures[0].message
    assert [n.spec.slug for n in outcome.blocked] == ["behind"]
    assert result(store, other) == 3


def test_stages_with_models_take_one_device_each(tmp_path):
    nodes = [node(f"n{i}", function="device", worker="torch") for i in range(4)]
    store, outcome = execute(tmp_path, *nodes, cores=4, devices=("3", "5"))
    assert outcome.exit_code() == 0
    seen = [(store.entry("toy", n.key) / "device.txt").read_text().split() for n in nodes]
    assert {device for device, _, _ in seen} == {"3", "5"}
    for name in ("3", "5"):
        spans = sorted((float(start), float(end)) for device, start, end in seen if device == name)
        assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))


def test_the_processes_inside_a_stage_are_counted_as_cores(tmp_path, capsys):
    wide = [node(f"wide{i}", {"workers": 2}) for i in range(2)]
    narrow = [node(f"narrow{i}", {"_sleep_s": 0.2}) for i in range(2)]
    _, outcome = execute(tmp_path, *wide, *narrow, node("greedy", {"workers": 99}), cores=2)
    assert outcome.exit_code() == 0
    events = [line.split()[2::2] for line in capsys.readouterr().out.splitlines()]
    running, most = set(), {}
    for what, name in ((words[0], words[1]) for words in events):
        (running.add if what == "start" else running.remove)(name)
        most |= {other: max(most.get(other, 0), len(running)) for other in running}
    assert most == {"wide0": 1, "wide1": 1, "greedy": 1, "narrow0": 2, "narrow1": 2}


def test_longest_chain_first():
    a = node("a")
    b = node("b", inputs={"a": a})
    alone = node("alone")
    nodes = topological([b, alone])
    priority = critical_path(nodes, {a.key: 1, b.key: 5, alone.key: 3})
    assert priority == {a.key: 6, b.key: 5, alone.key: 3}


DRIVER = """
import json, sys
from pathlib import Path
from tests.helpers.toy_stages import node
from experiment.executors import LocalExecutor
from experiment.progress import PlainDisplay
from experiment.stages import topological
from experiment.store import Store
config = json.loads(sys.argv[2])
nodes = topological([node("a", config, function=sys.argv[3])])
executor = LocalExecutor(Store(Path(sys.argv[1])), 2, 2, PlainDisplay())
outcome = executor.run(nodes, {n.key: 1.0 for n in nodes}, lambda n: None)
raise SystemExit(outcome.exit_code())
"""


def driver(tmp_path, config, function="count"):
    import json

    command = [sys.executable, "-c", DRIVER, str(tmp_path / ".store"), json.dumps(config), function]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def wait_for(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_saves_and_the_same_command_resumes(tmp_path, number):
    trace = tmp_path / "trace"
    config = {"_trace": str(trace), "steps": 60, "_sleep_s": 0.05}
    process = driver(tmp_path, config)
    progress = next(iter([tmp_path / ".store" / "tmp" / node("a", config).key / "progress.txt"]))
    wait_for(progress.exists)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 75, output
    kept = len(progress.read_text().splitlines())
    assert 0 < kept < 60
    assert driver(tmp_path, {**config, "_sleep_s": 0}).wait(timeout=20) == 0
    assert int(trace.read_text().splitlines()[-1].split()[2]) == kept
    assert result(Store(tmp_path / ".store"), node("a", config)) == 60


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_killing_the_driver_leaves_no_process(tmp_path):
    pids = tmp_path / "pids"
    process = driver(tmp_path, {"_pids": str(pids)}, "with_child")
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    family = [int(text) for text in pids.read_text().split()]
    assert all(alive(pid) for pid in family)
    process.kill()
    process.communicate(timeout=10)
    wait_for(lambda: not any(alive(pid) for pid in family), timeout_s=5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_second_signal_kills(tmp_path):
    pids = tmp_path / "pids"
    config = {"_trace": str(pids), "steps": 2, "_sleep_s": 30}
    process = driver(tmp_path, config)
    wait_for(pids.exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 75
    wait_for(lambda: not alive(int(pids.read_text().split()[1])), timeout_s=5)


def test_two_drivers_share_the_work(tmp_path):
    trace = tmp_path / "trace"
    config = {"_trace": str(trace), "steps": 10, "_sleep_s": 0.1}
    both = [driver(tmp_path, config), driver(tmp_path, config)]
    assert [process.wait(timeout=30) for process in both] == [0, 0]
    assert len(trace.read_text().splitlines()) == 1
