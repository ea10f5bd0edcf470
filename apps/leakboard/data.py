"""Runs as the page sees them. Caches are keyed on what is on disk (path, name, sizes or manifest), never on a frame:
streamlit hashes only a sample of a large frame and would return another run's.

All runs are known by a light handle and one line; frames are kept of the few that are looked at.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from probekit.storage.listing import Line, keep_line, kept_line, line_of
from probekit.storage.runs import Run, is_being_measured, list_runs, open_run

MANY = 5_000  # runs whose one line is kept
AT_LEAST = 12  # lines of a first look, however slow
FEW = 4  # runs whose frames are kept


def runs(root: Path) -> list[Run]:
    """A handle of every run folder under `root`, the latest first. Not for its frames: see `opened`.

    What a folder says is looked at every other second at most; one that comes or goes is seen at once.
    """
    return _runs(str(root), root.stat().st_mtime_ns if root.is_dir() else 0)


@st.cache_resource(ttl=2, max_entries=8, show_spinner=False)
def _runs(path: str, changed: int) -> list[Run]:
    root = Path(path)
    return list_runs(root, lambda folder: _handle(str(folder), _signature(folder), is_being_measured(folder)))


def opened(run: Run) -> Run:
    """The run with its frames, which are read once while it is among the last FEW that were looked at."""
    return _opened(str(run.path), _signature(run.path), run.state == "running")


def lines(found: Sequence[Run], seconds: float) -> dict[str, Line]:
    """The lines of runs, by name, as many as can be made in that time; the others are made when it is asked again.

    AT_LEAST are made in any time but none. One that cannot be read says why, and takes nothing else down.
    """
    kept, until, out = _lines(), time.monotonic() + seconds, {}
    left = AT_LEAST if seconds else 0
    for run in found:
        key = (str(run.path), run.fingerprint, run.state)
        if key not in kept and (left > 0 or time.monotonic() < until):
            kept[key] = _line(run)
            left -= 1
        if key in kept:
            out[run.name] = kept[key]
    while len(kept) > MANY:
        kept.pop(next(iter(kept)), None)
    return out


@st.cache_resource(show_spinner=False)
def _lines() -> dict[tuple[str, str, str], Line]:
    """Lines that were made, of all sessions."""
    return {}


@st.cache_resource(max_entries=MANY, show_spinner=False)
def _handle(path: str, signature: tuple, held: bool) -> Run:
    """One object per state of a folder. `signature` and `held` are only the key."""
    return open_run(path, partial=True)


@st.cache_resource(max_entries=FEW, show_spinner=False)
def _opened(path: str, signature: tuple, held: bool) -> Run:
    return open_run(path, partial=True)


def _line(known: Run) -> Line:
    """What a run keeps of itself, or what its records say, which it then keeps."""
    if known.manifest is None:
        return line_of(open_run(known.path, partial=True))  # whose frames are not kept, as those of a handle would be
    line = kept_line(known)
    if line is None:
        line = line_of(known)
        keep_line(known, line)
    return line


def _signature(folder: Path) -> tuple:
    """Name, size and time of the files that decide what is read."""
    names = ["manifest.json", "status.json", "spec.json", "records.parquet", "losses.parquet", "cells.parquet"]
    files = [folder / name for name in names] + sorted(folder.glob("cells-*.jsonl"))
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file())


def losses(run: Run, record: str) -> pd.DataFrame:
    """Missed bits per group behind one record, the worst first."""
    frame = run.losses_of(record)
    frame = frame.assign(fbu=frame["numerator"] / frame["denominator"].where(frame["denominator"] > 0))
    return frame.drop(columns="record").sort_values("numerator", ascending=False, ignore_index=True)
