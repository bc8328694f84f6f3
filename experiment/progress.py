"""What a person sees while stages run: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_EVERY_S = 30.0


@dataclass
class Running:
    """A stage that runs now."""

    label: str
    started: float
    done: int = 0
    total: int = 0
    note: str = ""
    first: tuple[float, int] | None = None  # time of the first report, and what was done before it

    def update(self, now: float, done: int, total: int, note: str) -> None:
        """A report of the stage. What it found done at its first says nothing about its speed."""
        self.done, self.total, self.note = done, total, note
        if self.first is None and total:
            self.first = now, done

    def pace(self, now: float) -> str:
        """`24.1/min, 2 min 05 s left`; empty while nothing is known."""
        if self.first is None or self.done <= self.first[1] or now <= self.first[0]:
            return ""
        per_s = (self.done - self.first[1]) / (now - self.first[0])
        left = f", {seconds_text((self.total - self.done) / per_s)} left" if self.done < self.total else ""
        return f"{60 * per_s:.1f}/min{left}"

    def text(self, now: float) -> str:
        """`train text_cot/object 12/60 (20 s, 36.0/min, 1 min 20 s left) loss 3.1`."""
        count = f" {self.done}/{self.total}" if self.total else ""
        times = ", ".join(filter(None, (f"{now - self.started:.0f} s", self.pace(now))))
        return f"{self.label}{count} ({times}) {self.note}".rstrip()


@dataclass
class Board:
    """The state that a display shows. Changed by the executor, read by the display."""

    total: int
    finished: int = 0
    running: dict[str, Running] = field(default_factory=dict[str, Running])
    started: float = field(default_factory=time.monotonic)

    def headline(self) -> str:
        """`[7/31] 2:05`."""
        elapsed = int(time.monotonic() - self.started)
        return f"[{self.finished}/{self.total}] {elapsed // 60}:{elapsed % 60:02d}"


class Display(Protocol):
    """Where progress is shown."""

    def line(self, text: str) -> None:
        """Print one line that stays."""
        ...

    def refresh(self, board: Board) -> None:
        """Called a few times a second."""
        ...


class PlainDisplay:
    """Lines only: one per event, and one about what is running every PLAIN_EVERY_S."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def line(self, text: str) -> None:
        """Print it, flushed: output is often a pipe."""
        print(text, flush=True)

    def refresh(self, board: Board) -> None:
        """Say what is running, once in a while."""
        now = time.monotonic()
        if board.running and now - self.last >= PLAIN_EVERY_S:
            self.last = now
            self.line(f"{board.headline()} running: {'; '.join(r.text(now) for r in board.running.values())}")


class LiveDisplay:
    """A table that rewrites itself below the lines that stay."""

    def __init__(self, live: Live) -> None:
        self.live = live

    def line(self, text: str) -> None:
        """Print above the live table."""
        self.live.console.print(text, markup=False, highlight=False)

    def refresh(self, board: Board) -> None:
        """Draw the table again."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_row(board.headline(), "", "", "", "")
        now = time.monotonic()
        for stage in board.running.values():
            bar = ProgressBar(total=stage.total or 1, completed=stage.done, width=24)
            count = f"{stage.done}/{stage.total}" if stage.total else ""
            table.add_row(f"  {stage.label}", bar, f"{count} {now - stage.started:.0f} s", stage.pace(now), stage.note)
        self.live.update(table)


@contextmanager
def display() -> Generator[Display]:
    """The display that suits stdout."""
    if not sys.stdout.isatty():
        yield PlainDisplay()
        return
    from rich.live import Live

    with Live(refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(live)


def seconds_text(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def times_text(times: Mapping[str, float]) -> list[str]:
    """Lines of a table of durations, longest first."""
    width = max((len(label) for label in times), default=0)
    ordered = sorted(times.items(), key=lambda pair: -pair[1])
    return [f"  {label:<{width}}  {seconds_text(seconds):>12}" for label, seconds in ordered]
