"""What every command prints with: JSON in one shape, progress, and one sentence for an error."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probekit.errors import ProbekitError
from probekit.storage.files import plain_json

if TYPE_CHECKING:
    import pandas as pd

    from probekit.jobs.runner import Progress


def progress() -> "Progress":
    """Lines on stderr: one per cell on a terminal's last line, or every few seconds where there is none."""
    started = last = time.monotonic()
    live = sys.stderr.isatty()
    phase = (-1, 0, started)  # of a total: how much of it was done when it was first heard of, and when

    def say(what: str, done: int, total: int) -> None:
        nonlocal last, phase
        now = time.monotonic()
        if phase[0] != total:
            phase = (total, done, now)
        elif not live and now - last < 5 and done != total:
            return
        _, before, since = phase
        seconds = (now - since) / (done - before) * (total - done) if before < done < total else None
        left = "" if seconds is None else f", about {seconds:.0f} s left"
        text = f"[{now - started:5.0f} s] {what} ({done:,}/{total:,}{left})"
        typer.echo(("\r\x1b[K" if live else "") + text, err=True, nl=not live or what == "done")
        last = now

    return say


JSON_SCHEMA_VERSION = 1
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RootOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the run folders.")]


def print_json(command: str, ok: bool, rows: list[dict], **extra: Any) -> None:
    """Print `{"schema_version", "command", "ok", "rows", ...}` on one line; anything missing is null, never NaN."""
    body = {"schema_version": JSON_SCHEMA_VERSION, "command": command, "ok": ok, "rows": plain_json(rows, printed=True),
            **plain_json(extra, printed=True)}  # fmt: skip
    typer.echo(json.dumps(body, allow_nan=False, ensure_ascii=False))


def rows(frame: "pd.DataFrame") -> list[dict]:
    """A frame as dictionaries of plain Python values; NaN and NA become None. Of records: exactly `Record.row()`."""
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
