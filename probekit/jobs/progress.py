"""Progress of long work: a line on stderr, how much of how much is done, and how long the rest will take."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from probekit.errors import printable
from probekit.jobs.cells import Cell

if TYPE_CHECKING:
    from probekit.jobs.engines import Progress
    from probekit.storage.runwriter import RunWriter

EVERY = 10  # seconds between lines where there is no terminal


def time_left(seconds: float) -> str:
    """`40 s`, `6 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def told_bytes(n_bytes: float) -> str:
    """`3.2 MB`, for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


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
    from probekit.results.text import fitted, terminal_width

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
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    from probekit.results.text import screen, terminal_width

    console = screen(terminal_width(), stderr=True)
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
            bar.update(task, description=printable(what), completed=done, total=total, rest=told)

        yield say


BEAT = 5.0  # seconds after which a run folder says again that somebody is at work on it


@contextmanager
def beating(writer: "RunWriter", progress: "Progress | None") -> "Iterator[Progress]":
    """`progress`, which the run folder's status.json is told too; in a cell of hours it still says that all is well."""

    def say(what: str, done: int, total: int, left: float | None = None) -> None:
        writer.beat(what, left)
        if progress:
            progress(what, done, total, left)

    with repeated(lambda: writer.beat(every=BEAT), BEAT):
        yield say


@contextmanager
def repeated(call: Callable[[], object], every: float) -> "Iterator[None]":
    """Call it every so many seconds while the block runs, from a thread of its own."""
    ended = threading.Event()

    def calling() -> None:
        while not ended.wait(every):
            call()

    thread = threading.Thread(target=calling, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# The cells of a job -------------------------------------------------------------------------------------------------

# What a cell of a kind costs beside one that reads: used for kinds that no cell has told of yet.
_WEIGHTS = {
    "feature": 0.15, "read": 1.0, "replace": 0.5, "selected": 0.1, "repeat": 0.5, "roll_out": 0.5, "compose": 0.5,
    "steer": 0.3,
}  # fmt: skip
_CHAIN = 2.0  # a chain edits every site

_Kind = tuple[str, str, bool]


class Pace:
    """Seconds left, from the mean of what a cell of the same kind and behaviour took so far."""

    def __init__(self, cells: Iterable[Cell], n_workers: int = 1) -> None:
        self._left, self._n_workers = [_kind(cell) for cell in cells], n_workers
        self._took: dict[_Kind, list[float]] = {}

    def finished(self, unit: Cell, seconds: float) -> None:
        """One of them is done; what took no time (it failed) is no evidence."""
        self._left.remove(_kind(unit))
        if seconds > 0:
            self._took.setdefault(_kind(unit), []).append(seconds)

    def left(self) -> float | None:
        """Seconds, or None before the first cell is done."""
        if not self._took:
            return None
        means = {kind: sum(seconds) / len(seconds) for kind, seconds in self._took.items()}
        unit = sum(mean / _weight(kind) for kind, mean in means.items()) / len(means)
        return sum(means.get(kind, unit * _weight(kind)) for kind in self._left) / self._n_workers


def _kind(cell: Cell) -> _Kind:
    return cell.kind, cell.what, len(cell.hooks) > 1


def _weight(kind: _Kind) -> float:
    return _WEIGHTS[kind[0]] * (_CHAIN if kind[2] and kind[0] == "replace" else 1.0)
