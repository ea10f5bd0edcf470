"""Runs as the page sees them. Caches are keyed on what is on disk (path, name, sizes or manifest), never on a frame:
streamlit hashes only a sample of a large frame and would return another run's."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
from pathlib import Path

import pandas as pd
import streamlit as st

from probekit.storage.runs import Run, is_being_measured, list_runs, open_run


def runs(root: Path) -> list[Run]:
    """Every run folder under `root`, the latest first; folders that did not change are not read again."""
    return list_runs(root, lambda folder: _run(str(folder), _signature(folder), is_being_measured(folder)))


@st.cache_resource(max_entries=64, show_spinner=False)
def _run(path: str, signature: tuple, held: bool) -> Run:
    """One object per state of a folder, so that its frames are loaded once. `signature` and `held` are only the key."""
    return open_run(path, partial=True)


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
