"""Runs a graph of stages on this machine: warm worker processes, longest chains first.

A failing stage stops only what depends on it. Workers killed by a signal are replaced and the stage resumes. The
first SIGINT, SIGTERM or SIGUSR1 lets every stage save its work; the second kills.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from experiment.progress import Board, Display, Running, seconds_text
from experiment.secret import NETWORK, Secret
from experiment.stages import StageNode
from experiment.store import Store
from experiment.worker import EXIT_ENVIRONMENT, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from experiment.worker_handle import Worker, start_worker

POLL_S = 0.25
MODELS = "torch"  # the kind of worker that uses a CUDA device, where there are some
LOG_TAIL_LINES = 12


@dataclass(frozen=True)
class Failure:
    """Why a stage has no result. `code` is the exit code of its kind."""

    node: StageNode
    code: int
    message: str


@dataclass
class Outcome:
    """What became of a graph."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])  # key -> wall time, of stages run now
    failures: list[Failure] = field(default_factory=list[Failure])
    blocked: list[StageNode] = field(default_factory=list[StageNode])
    interrupted: bool = False
    wall_s: float = 0.0

    def exit_code(self) -> int:
        """0, or the code of the worst failure: 75 over 1 over 78 over 2."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        codes = {failure.code for failure in self.failures}
        return next((code for code in (EXIT_FAILED, EXIT_ENVIRONMENT, EXIT_USAGE) if code in codes), 0)


class LocalExecutor:
    """Runs stages at once while their processes fit the cores; those with models one per device, where there are some.

    One `run` each.
    """

    def __init__(
        self,
        store: Store,
        cores: int,
        retries: int,
        display: Display,
        devices: Sequence[str] = (),
        secret: Secret = Secret(),  # noqa: B008 - it is immutable
    ) -> None:
        self.store = store
        self.cores = cores
        self.free_devices = list(devices)
        self.limits = {NETWORK: 1, **({MODELS: len(devices)} if devices else {})}  # a service's limits are an account's
        self.secret = secret
        self.retries = retries
        self.display = display
        self.workers: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        self.outcome = Outcome()
        self.attempts: dict[str, int] = {}
        self.stops = 0

    def run(
        self, nodes: Sequence[StageNode], expected_s: Mapping[str, float], finished: Callable[[StageNode], None]
    ) -> Outcome:
        """Run the nodes (inputs outside the list are there already). `finished` is called after each success."""
        self.pending = {node.key: node for node in nodes}
        self.priority = critical_path(nodes, expected_s)
        self.board = Board(len(nodes))
        self.finished = finished
        with self._signals():
            try:
                while self.pending or any(worker.node for worker in self.workers):
                    self._step()
            finally:
                self._close()
        self.outcome.wall_s = time.monotonic() - self.board.started
        return self.outcome

    # -------------------------------------------------------------- one turn of the loop

    def _step(self) -> None:
        if self.stops and self.pending:
            self.pending.clear()
            self.display.line("stopping: running stages save their work; once more to kill them")
        if not self.stops:
            self._start_ready()
        for selected, _ in self.selector.select(POLL_S):
            self._read(selected.data)
        self._retire_unneeded()
        self.display.refresh(self.board)

    def _start_ready(self) -> None:
        unfinished = self.pending.keys() | {node.key for node in self._running()}
        ready = [n for n in self.pending.values() if not any(i.key in unfinished for i in n.inputs.values())]
        full = False  # once a stage waits for its cores, no narrower one goes first: it would wait for ever
        for node in sorted(ready, key=lambda n: -self.priority[n.key]):
            if node.worker in self.limits:
                fits = sum(n.worker == node.worker for n in self._running()) < self.limits[node.worker]
            else:
                fits = not full and self._cores_used() + min(node.cores, self.cores) <= self.cores
                full = not fits
            if fits:
                del self.pending[node.key]
                self._start(node)

    def _running(self) -> list[StageNode]:
        return [worker.node for worker in self.workers if worker.node is not None]

    def _cores_used(self) -> int:
        """By stages without a device: one that has a device leaves its core idle most of the time."""
        return sum(min(node.cores, self.cores) for node in self._running() if node.worker not in self.limits)

    def _start(self, node: StageNode) -> None:
        idle = [worker for worker in self.workers if worker.kind == node.worker and worker.is_idle]
        worker = idle[0] if idle else self._spawn(node.worker)
        self.attempts[node.key] = self.attempts.get(node.key, 0) + 1
        worker.send(self.store, node, log_path(self.store, node))
        self.board.running[node.key] = Running(node.label, time.monotonic())
        self.display.line(f"{self.board.headline()} start {node.label}")

    def _spawn(self, kind: str) -> Worker:
        device = self.free_devices.pop(0) if kind == MODELS and self.free_devices else ""
        worker = start_worker(kind, device, self.secret)
        self.workers.append(worker)
        self.selector.register(worker.events, selectors.EVENT_READ, worker)
        return worker

    def _retire_unneeded(self) -> None:
        wanted = {node.worker for node in self.pending.values()}
        for worker in self.workers:
            if worker.is_idle and worker.kind not in wanted:
                worker.retire()

    # -------------------------------------------------------------- events

    def _read(self, worker: Worker) -> None:
        data = os.read(worker.events, 65536)
        if not data:
            self._ended(worker)
            return
        *lines, worker.buffer = (worker.buffer + data).split(b"\n")
        for line in lines:
            self._event(worker, json.loads(line))

    def _event(self, worker: Worker, event: dict[str, Any]) -> None:
        node = worker.node
        assert node is not None, "an idle worker speaks"
        worker.last_event = event
        if event["event"] == "progress":
            self.board.running[node.key].update(time.monotonic(), event["done"], event["total"], event["note"])
        elif event["event"] == "done":
            worker.node = None
            self._succeeded(node, time.monotonic() - worker.started)

    def _succeeded(self, node: StageNode, seconds: float) -> None:
        self.outcome.seconds[node.key] = seconds
        self.board.running.pop(node.key)
        self.board.finished += 1
        self.finished(node)
        self.display.line(f"{self.board.headline()} done  {node.label} in {seconds_text(seconds)}")

    def _ended(self, worker: Worker) -> None:
        """The worker's pipe has ended: it has exited, or is about to."""
        self.selector.unregister(worker.events)
        os.close(worker.events)
        self.workers.remove(worker)
        self.free_devices += [worker.device] if worker.device else []
        code = worker.process.wait()
        worker.signal(signal.SIGKILL)  # whatever its stage had started and left
        worker.retire()
        if worker.node is not None:
            self.board.running.pop(worker.node.key)
            self._failed(worker.node, code, worker.last_event)

    def _failed(self, node: StageNode, code: int, event: Mapping[str, Any]) -> None:
        stopped = code == EXIT_INTERRUPTED or code < 0
        if self.stops and stopped:
            self.display.line(f"{self.board.headline()} saved {node.label}: interrupted, resumable")
            return
        if stopped and self.attempts[node.key] <= self.retries:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else "interrupted"
            self.display.line(f"{self.board.headline()} again {node.label}: its worker was {how}")
            self.pending[node.key] = node
            return
        message = event["message"] if event.get("event") == "error" else self._log_message(node, code)
        failure = Failure(node, code if code in (EXIT_USAGE, EXIT_ENVIRONMENT) else EXIT_FAILED, message)
        self.outcome.failures.append(failure)
        self.display.line(f"{self.board.headline()} FAIL  {node.label}: {message}")
        self._block_dependents(node)

    def _block_dependents(self, node: StageNode) -> None:
        lost = {node.key}
        for candidate in list(self.pending.values()):  # topological order is kept by dict
            if any(needed.key in lost for needed in candidate.inputs.values()):
                lost.add(candidate.key)
                self.outcome.blocked.append(self.pending.pop(candidate.key))

    def _log_message(self, node: StageNode, code: int) -> str:
        log = log_path(self.store, node)
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:] if log.exists() else []
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return "\n".join([f"its worker ended ({how}); log {log}", *(f"    {line}" for line in tail)])

    # -------------------------------------------------------------- signals and the end

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        """Handle stop signals while the loop runs."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stops += 1
        self.outcome.interrupted = True
        for worker in self.workers:
            worker.signal(signal.SIGTERM if self.stops == 1 else signal.SIGKILL)

    def _close(self) -> None:
        """Let idle workers end; kill the rest. Nothing of this run lives on."""
        for worker in self.workers:
            worker.end()
            os.close(worker.events)
        self.workers.clear()
        self.selector.close()


def critical_path(nodes: Sequence[StageNode], expected_s: Mapping[str, float]) -> dict[str, float]:
    """Key -> expected seconds from the start of a stage to the end of the longest chain behind it."""
    behind: dict[str, float] = {node.key: 0.0 for node in nodes}
    total: dict[str, float] = {}
    for node in reversed(nodes):
        total[node.key] = behind[node.key] + expected_s[node.key]
        for needed in node.inputs.values():
            if needed.key in behind:
                behind[needed.key] = max(behind[needed.key], total[node.key])
    return total


def log_path(store: Store, node: StageNode) -> Path:
    """Where a stage's prints go."""
    name = "-".join(part for part in (node.stage, node.spec.slug.replace("/", "-"), node.key) if part)
    return store.root / "logs" / f"{name}.log"
