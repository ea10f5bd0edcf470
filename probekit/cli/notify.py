"""`--notify-command`: a command of the user's that is told, by its environment, how a long run ended."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from probekit.errors import BadInput, Interrupted


@dataclass
class Ending:
    """What is told: the run's folder or the sweep's, `complete`, `failed cells`, `failed` or `stopped`, and why."""

    run: Path | str = ""
    state: str = "complete"
    error: str = ""


@contextmanager
def notifying(command: str | None) -> Iterator[Ending]:
    """Run `command` when the block has ended, however it did, with PROBEKIT_RUN, PROBEKIT_STATE and PROBEKIT_ERROR set.

    It is split into words as a shell would, and no shell sees it. That it fails is told, and changes nothing. Raises
    BadInput for one that cannot be split, before anything is measured.
    """
    try:
        words = shlex.split(command or "")
    except ValueError as error:
        raise BadInput(f"--notify-command is {command}: it cannot be split into words ({error}).") from None
    ending = Ending()
    try:
        yield ending
    except BaseException as error:
        if not isinstance(error, typer.Exit):
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            ending.state, ending.error = "stopped" if stopped else "failed", str(error)
        raise
    finally:
        if words:
            _notify(words, ending)


def _notify(words: list[str], ending: Ending) -> None:
    told = {"PROBEKIT_RUN": str(ending.run), "PROBEKIT_STATE": ending.state, "PROBEKIT_ERROR": ending.error}
    try:
        code = subprocess.run(words, env=os.environ | told, stdout=2, timeout=60).returncode
        why = f"ended with exit code {code}" if code else ""
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = f"failed ({error})"
    if why:
        typer.echo(f"probekit: the notify command {shlex.join(words)} {why}; the run is as it says.", err=True)
