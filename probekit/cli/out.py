"""What every command prints with: JSON in one shape, progress, and one sentence for an error."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probekit.errors import ProbekitError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from probekit.jobs.engines import Progress


EVERY = 10  # seconds between lines where there is no terminal


def console(*, err: bool = False) -> "Console":
    """As wide as the terminal, COLUMNS where it is set, 80 where there is neither; text from data is no markup."""
    from rich.console import Console

    from probekit.results.text import terminal_width

    return Console(stderr=err, width=terminal_width(), highlight=False, markup=False, emoji=False)


def plain_table(columns: Sequence[str], cells: Iterable[Sequence[object]], title: str = "") -> "Table":
    """A table without a frame, so that it fits narrow terminals; what is long is folded, figures stand on the right."""
    from rich.table import Table
    from rich.text import Text

    from probekit.results.text import narrow, terminal_width

    rows = [[str(cell) for cell in row] for row in cells]
    table = Table(title=title or None, **narrow())
    widest = [max(map(len, (name, *(line for row in rows for line in row[i].splitlines()))))
              for i, name in enumerate(columns)]  # fmt: skip
    room = 2 * terminal_width() // 3  # for columns that stay whole, the narrow ones first
    at = sorted(range(len(widest)), key=widest.__getitem__)
    used = accumulate(widest[i] + 1 for i in at)
    whole = {i for i, so_far in zip(at, used, strict=True) if so_far <= room}
    for i, name in enumerate(columns):
        figures = bool(rows) and all(row[i].replace(",", "").replace(".", "").lstrip("-").isdigit() for row in rows)
        table.add_column(name, overflow="fold", no_wrap=i in whole, justify="right" if figures else "left")
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    return table


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
        typer.echo(head + fitted(printable(what), max(8, terminal_width() - len(head + tail))) + tail, err=True)
        last = now

    return say


@contextmanager
def _live() -> "Iterator[Progress]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    what_column = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    rest = TextColumn("{task.fields[rest]}", markup=False, table_column=Column(no_wrap=True))
    phase = Phase()
    with Progress(
        what_column, BarColumn(12), MofNCompleteColumn(), rest, console=console(err=True), transient=True, expand=True
    ) as bar:
        task = bar.add_task("", total=None, rest="")

        def say(what: str, done: int, total: int, left: float | None = None) -> None:
            _, by_rate = phase.tell(done, total)
            seconds = by_rate if left is None else left
            told = "" if seconds is None else f"about {time_left(seconds)} left"
            bar.update(task, description=what, completed=done, total=total, rest=told)

        yield say


JSON_SCHEMA_VERSION = 1
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RootOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the run folders.")]


def print_json(command: str, ok: bool, rows: list[dict], **extra: Any) -> None:
    """Print `{"schema_version", "command", "ok", "rows", ...}` on one line; anything missing is null, never NaN."""
    from probekit.storage.files import plain_json  # NumPy is not loaded for --help

    body = {"schema_version": JSON_SCHEMA_VERSION, "command": command, "ok": ok, "rows": plain_json(rows, printed=True),
            **plain_json(extra, printed=True)}  # fmt: skip
    typer.echo(json.dumps(body, allow_nan=False, ensure_ascii=False))


def rows(frame: "pd.DataFrame") -> list[dict]:
    """A frame as dictionaries of plain Python values; NaN and NA become None. Of records: exactly `Record.row()`."""
    from probekit.storage.files import plain_json

    return plain_json(frame.to_dict("records"), printed=True)


@contextmanager
def reporting(command: str, as_json: bool) -> Iterator[None]:
    """With --json, a ProbekitError becomes `ok: false` with its sentence and exit code; without, it passes through."""
    try:
        yield
    except ProbekitError as error:
        if not as_json:
            raise
        print_json(command, False, [], error=str(error), kind=type(error).__name__)
        raise typer.Exit(error.exit_code) from None
