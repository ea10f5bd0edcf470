"""What every command prints with: tables, JSON in one shape, and one sentence for an error."""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probekit.errors import Interrupted, ProbekitError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table


def console(*, err: bool = False) -> "Console":
    """As wide as the terminal, COLUMNS where it is set, 80 where there is neither; text from data is no markup."""
    from probekit.results.text import screen, terminal_width

    return screen(terminal_width(), stderr=err)


def plain_table(columns: Sequence[str], cells: Iterable[Sequence[object]], title: str = "") -> "Table":
    """A table without a frame, so that it fits narrow terminals; what is long is folded, figures stand on the right."""
    from rich.table import Table

    from probekit.results.text import as_is, narrow, terminal_width

    rows = [[str(cell) for cell in row] for row in cells]
    table = Table(title=as_is(title, "table.title") if title else None, **narrow())
    widest = [max(map(len, (name, *(line for row in rows for line in row[i].splitlines()))))
              for i, name in enumerate(columns)]  # fmt: skip
    room = 2 * terminal_width() // 3  # for columns that stay whole, the narrow ones first
    at = sorted(range(len(widest)), key=widest.__getitem__)
    used = accumulate(widest[i] + 1 for i in at)
    whole = {i for i, so_far in zip(at, used, strict=True) if so_far <= room}
    for i, name in enumerate(columns):
        figures = bool(rows) and all(row[i].replace(",", "").replace(".", "").lstrip("-").isdigit() for row in rows)
        table.add_column(as_is(name), overflow="fold", no_wrap=i in whole, justify="right" if figures else "left")
    for row in rows:
        table.add_row(*map(as_is, row))
    return table


JSON_SCHEMA_VERSION = 1
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RootOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the run folders.")]


def print_json(command: str, ok: bool, rows: list[dict], **extra: Any) -> None:
    """Print `{"schema_version", "command", "ok", "rows", ...}` on one line; anything missing is null, never NaN."""
    from probekit.storage.files import plain_json  # NumPy is not loaded for --help

    body = {"schema_version": JSON_SCHEMA_VERSION, "command": command, "ok": ok, "rows": plain_json(rows, printed=True),
            **plain_json(extra, printed=True)}  # fmt: skip
    typer.echo(json.dumps(body, allow_nan=False))  # ASCII, which every terminal and pipe takes as it is


def rows(frame: "pd.DataFrame") -> list[dict]:
    """A frame as dictionaries of plain Python values; NaN and NA become None. Of records: exactly `Record.row()`."""
    from probekit.storage.files import plain_json

    return plain_json(frame.to_dict("records"), printed=True)


def resume_command() -> str:
    """The command line of this process, to be copied."""
    return shlex.join(["probekit", *sys.argv[1:]])


@contextmanager
def reporting(command: str, as_json: bool) -> Iterator[None]:
    """With --json, a ProbekitError becomes `ok: false` with its sentence and exit code, and with the command that goes
    on where something was stopped; without, it passes through."""
    try:
        yield
    except ProbekitError as error:
        if not as_json:
            raise
        goes_on = {"resume": resume_command()} if isinstance(error, Interrupted) else {}
        print_json(command, False, [], error=str(error), kind=type(error).__name__, **goes_on)
        raise typer.Exit(error.exit_code) from None
