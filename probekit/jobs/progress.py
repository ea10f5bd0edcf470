"""Progress of long work on stderr: how much of how much is done, and the time that is left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probekit.jobs.engines import Progress

EVERY = 10  # seconds between lines where there is no terminal


def time_left(seconds: float) -> str:
    """`40 s`, `6 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Phase:
    """The clock of one phase: it starts again when another total is told or less is done than before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total, self._first, self._done, self._since = -1, 0, 0, clock()

    def tell(self, done: int, total: int) -> tuple[bool, float | None]:
        """(whether a phase begins, seconds left of it by its own rate, None before it has one)."""
        now = self._clock()
        begins = total != self._total or done < self._done
        if begins:
            self._total, self._first, self._since = total, done, now
        self._done = done
        gained = done - self._first
        return begins, (now - self._since) / gained * (total - done) if gained > 0 else None


@contextmanager
def progress() -> "Iterator[Progress]":
    """On stderr: one live line with rate and time left on a terminal, a line every 10 s elsewhere."""
    with _live() if sys.stderr.isatty() else nullcontext(_lines()) as say:
        yield say


def _lines() -> "Progress":
    from probekit.results.text import fitted, printable, terminal_width

    phase, started = Phase(), time.monotonic()
    last = started - EVERY

    def say(what: str, done: int, total: int, left: float | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        begins, by_rate = phase.tell(done, total)
        if not begins and now - last < EVERY and done != total:
            return
        seconds = by_rate if left is None else left
        rest = "" if seconds is None or done == total else f", about {time_left(seconds)} left"
        head, tail = f"[{now - started:5.0f} s] ", f" ({done:,}/{total:,}{rest})"
        line = head + fitted(printable(what), max(8, terminal_width() - len(head + tail))) + tail
        sys.stderr.write(f"{line}\n")
        last = now

    return say


@contextmanager
def _live() -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    from probekit.results.text import terminal_width

    console = Console(stderr=True, width=terminal_width(), highlight=False, markup=False, emoji=False)
    what_column = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    rest = TextColumn("{task.fields[rest]}", markup=False, table_column=Column(no_wrap=True))
    phase = Phase()
    with Progress(
        what_column, BarColumn(12), MofNCompleteColumn(), rest, console=console, transient=True, expand=True
    ) as bar:
        task = bar.add_task("", total=None, rest="")

        def say(what: str, done: int, total: int, left: float | None = None) -> None:
            _, by_rate = phase.tell(done, total)
            seconds = by_rate if left is None else left
            told = "" if seconds is None else f"about {time_left(seconds)} left"
            bar.update(task, description=what, completed=done, total=total, rest=told)

        yield say
