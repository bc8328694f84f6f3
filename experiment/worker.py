"""The process that runs stages: reads specs as JSON lines on stdin, answers JSON lines on a pipe of its own.

One stage at a time. A failing stage ends the process with the exit code that says what kind of failure it was; the
driver starts another worker for the next stage. What a stage prints goes to that stage's log file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, Any

from configs.checks import ConfigError
from data_pipeline.contract import EnvironmentProblem, Interrupted, StageFailed
from data_pipeline.processes import die_with_parent
from experiment.stages import StageSpec
from experiment.store import Store

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 75
EXIT_ENVIRONMENT = 78
PROGRESS_EVERY_S = 0.2
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Emit = Callable[[dict[str, Any]], None]


class StopRequest:
    """Becomes true at the first SIGINT, SIGTERM or SIGUSR1; later ones change nothing."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        """Install the handlers; main thread only."""
        for number in _STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self.requested


def serve(events_fd: int, parent: int) -> int:
    """Run stages until stdin ends. Each request: {"store": path, "spec": text, "log": path}."""
    die_with_parent(parent)
    os.set_inheritable(events_fd, False)  # noqa: FBT003 - a process started by a stage must not keep the pipe open
    stop = StopRequest()
    stop.listen()
    with os.fdopen(events_fd, "w", encoding="utf-8", buffering=1) as events:
        emit = _emitter(events)
        for line in sys.stdin:
            request = json.loads(line)
            _redirect_output(Path(request["log"]))
            code = run_one(Path(request["store"]), StageSpec.from_json(request["spec"]), emit, stop)
            if code:
                return code
    return 0


def run_one(store_root: Path, spec: StageSpec, emit: Emit, stop: Callable[[], bool]) -> int:
    """Run one stage and emit what happens: progress, then one of done, interrupted, error. Returns the exit code.

    Failures that nobody foresaw leave as exceptions: traceback in the log, exit code 1.
    """
    try:
        manifest = Store(store_root).run(spec, _throttled(emit), stop)
    except Interrupted:
        emit({"event": "interrupted"})
        return EXIT_INTERRUPTED
    except ConfigError as problem:
        emit({"event": "error", "code": EXIT_USAGE, "message": str(problem)})
        return EXIT_USAGE
    except EnvironmentProblem as problem:
        emit({"event": "error", "code": EXIT_ENVIRONMENT, "message": str(problem)})
        return EXIT_ENVIRONMENT
    except StageFailed as problem:
        emit({"event": "error", "code": EXIT_FAILED, "message": str(problem)})
        return EXIT_FAILED
    emit({"event": "done", "output": manifest.output, "seconds": manifest.seconds})
    return 0


def run_spec_file(store_root: Path, spec_file: Path) -> int:
    """`run-stage`: one stage in this process, events on stdout. For clusters and for debugging one stage."""
    stop = StopRequest()
    stop.listen()
    spec = StageSpec.from_json(spec_file.read_text(encoding="utf-8"))
    return run_one(store_root, spec, _emitter(sys.stdout), stop)


def _emitter(stream: IO[str]) -> Emit:
    def emit(event: dict[str, Any]) -> None:
        stream.write(json.dumps(event) + "\n")
        stream.flush()

    return emit


def _throttled(emit: Emit) -> Callable[[int, int, str], None]:
    """A progress callback that passes on at most five reports a second, and always the last one."""
    last = 0.0

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY_S or done == total:
            last = now
            emit({"event": "progress", "done": int(done), "total": int(total), "note": str(note)})

    return report


def _redirect_output(log: Path) -> None:
    """Send stdout and stderr, also of C libraries, to a stage's log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
