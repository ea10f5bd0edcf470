"""Blocks: studies whose units are blocks of seeds, each a table of the run folder, which all of them are judged by."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from probekit.jobs.engines import Folder, Progress, Station, stopping, work_off
from probekit.jobs.workers import crew_of
from probekit.records import Losses, Record, digest
from probekit.storage.runs import Run, open_run
from probekit.storage.runwriter import RunWriter


@runtime_checkable
class Block(Protocol):
    """Seeds of one cell of a study. id: name of its line and table; label: what a progress line says."""

    @property
    def id(self) -> str: ...

    @property
    def label(self) -> str: ...


def seed_blocks(seeds: int, size: int) -> list[tuple[int, ...]]:
    """Seeds 0, 1 ... in blocks of `size`, the last one shorter."""
    return [tuple(range(at, min(at + size, seeds))) for at in range(0, seeds, size)]


def block_study(
    kind: str, spec: Mapping[str, Any], planned: Sequence[Block], measure: Callable[[Any], pd.DataFrame],
    judged: Callable[[pd.DataFrame], pd.DataFrame] | None = None, *, root: Path | str, n_workers: int = 1,
    progress: Progress | None,
) -> tuple[Run, pd.DataFrame]:  # fmt: skip
    """Measure every block that the folder of this spec lacks; returns the run and what is `judged` of all rows, or all.

    kind: name of the table, and the start of the folder's. measure: found by its name, since processes start afresh.
    Raises Interrupted on Ctrl-C, and the same call resumes.
    """

    def close(writer: RunWriter) -> pd.DataFrame:
        run = open_run(writer.path, partial=True)
        rows = pd.concat([run.table(unit.id) for unit in planned], ignore_index=True)
        return rows if judged is None else judged(rows)

    place = {"root": root, "n_workers": n_workers, "progress": progress}
    return unit_study(kind, spec, planned, partial(_station, measure), close, **place)


def unit_study(
    kind: str, spec: Mapping[str, Any], planned: Sequence[Block], station: Callable[[RunWriter], Station],
    close: Callable[[RunWriter], pd.DataFrame], *, root: Path | str, n_workers: int, progress: Progress | None,
) -> tuple[Run, pd.DataFrame]:  # fmt: skip
    """The same of units that keep what they found as `station` writes it, with the table that `close` makes of it."""
    name, wanted = f"{kind}-{digest(spec, 8)}", {unit.id: unit for unit in planned}
    writer = RunWriter.open(Path(root), name, dict(spec), len(wanted))
    if not writer.complete:
        begin = partial(_begin, Path(root), name, dict(spec), len(wanted), station)
        with stopping(writer), crew_of(n_workers=n_workers) as crew:
            work_off([wanted], station(writer), crew=crew, begin=begin, progress=progress)
        writer.write_table(kind, close(writer))
        writer.finish({kind: dict(spec)})
    run = open_run(writer.path)
    return run, run.table(kind)


def _begin(root: Path, name: str, spec: dict, n_cells: int, station: Callable, number: int) -> Station:
    return station(RunWriter.open(root, name, spec, n_cells, worker=str(number)))


def _station(measure: Callable[[Any], pd.DataFrame], writer: RunWriter) -> Station:
    def write(writer: RunWriter, key: str, unit: Block, rows: pd.DataFrame) -> tuple[list[Record], list[Losses]]:
        writer.write_table(key, rows)  # before the line that says it is there
        return [], []

    return Station(measure, Folder(writer, write, strict=True))
