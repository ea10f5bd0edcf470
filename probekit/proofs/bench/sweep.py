"""The sweep bench: what a cell costs beside what it measures, through each engine, and how sweeps of any size behave.

Cells are simulated: one is a record with the losses of twenty groups, as a small real one has. The peer appends as many
lines of that size to a file and syncs each, which is what it takes to lose none of them.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from probekit.jobs.engines import Crew, Folder, Station, stopping, work_off
from probekit.jobs.sweep import Sweep
from probekit.jobs.workers import crew_of
from probekit.proofs.bench import Row
from probekit.proofs.bench.scale import forwards, moments, on_disk, processor_seconds, readers
from probekit.records import Losses, Record
from probekit.storage.runs import open_run
from probekit.storage.runwriter import RunWriter

GROUPS = 20


@dataclass(frozen=True)
class SweepSize:
    """cells: of the serial engine's runs, most: of the others'. jobs: of a file that is checked. rows: (rows, width) of
    files whose moments are taken; disk: of those that a reader is fitted to in little memory. models: (width, layers)
    of random ones that are run. problems: (rows, width) that a reader is fitted to."""

    cells: tuple[int, ...]
    most: int
    workers: int
    jobs: int
    rows: tuple[tuple[int, int], ...] = ()
    disk: tuple[tuple[int, int], ...] = ()
    models: tuple[tuple[int, int], ...] = ()
    problems: tuple[tuple[int, int], ...] = ()


FULL = SweepSize((100, 1_000, 10_000, 100_000), 10_000, 2, 10_000,
                 ((10_000, 512), (100_000, 512), (1_000_000, 512), (8_192, 4_096), (32_768, 4_096)),
                 ((100_000, 512), (300_000, 512), (1_000_000, 512), (100_000, 4_096)),
                 ((256, 6), (512, 8), (768, 12), (1_024, 12)),
                 ((8_000, 512), (16_000, 512), (8_000, 1_024), (16_000, 1_024)))  # fmt: skip
QUICK = SweepSize((20, 60), 60, 2, 100, ((10_000, 64), (40_000, 64)), ((40_000, 64),), ((64, 2), (128, 2), (192, 2)),
                  ((500, 32), (1_000, 32)))  # fmt: skip
ENGINES = ("serial", "local", "ray")
CASES = (*ENGINES, "jobs", "rows", "disk", "forwards", "readers")


@dataclass(frozen=True)
class Simulated:
    """A cell that measures nothing."""

    number: int

    @property
    def label(self) -> str:
        """For people."""
        return f"simulated {self.number}"


def sweep_bench(
    size: SweepSize, folder: Path, cases: Sequence[str], note: Callable[[dict[str, Any]], None]
) -> Iterator[Row]:
    """Rows of the bench, each with what `note` is told: milliseconds per cell, and of resuming and sealing the folder.

    cases: some of CASES.

    ratio: peer over ours. gap: share of cells that are lost or there twice. bound_ratio: ours over the peer's.
    """
    for engine in [case for case in cases if case in ENGINES]:
        crew = nullcontext() if engine == "serial" else crew_of(engine, size.workers)
        with crew as staff:
            if staff:  # starting them is told apart
                begun = time.monotonic()
                _measure(folder / f"{engine}-start", size.workers, staff)
                note({"engine": engine, "cells": size.workers, "start_seconds": time.monotonic() - begun})
            for n in size.cells:
                if engine == "serial" or n <= size.most:
                    yield _row(engine, n, folder / f"{engine}-{n}", staff, note)
    if "jobs" in cases:
        begun = time.monotonic()
        _file_of(size.jobs)
        note({"jobs": size.jobs, "check_ms_per_job": (time.monotonic() - begun) * 1e3 / size.jobs})
    for n, d in size.rows if "rows" in cases else ():
        yield moments(folder / f"rows-{n}-{d}", n, d, note)
    for n, d in size.disk if "disk" in cases else ():
        yield on_disk(folder / f"disk-{n}-{d}", n, d, note)
    if "forwards" in cases:
        yield from forwards(size.models, note)
    if "readers" in cases:
        yield from readers(size.problems, note)


def _row(engine: str, n: int, root: Path, crew: Crew | None, note: Callable[[dict[str, Any]], None]) -> Row:
    before = time.process_time()
    seconds, sealing, kept = _measure(root, n, crew)
    spent = time.process_time() - before - sealing
    peer, opening = _appended(root / "peer", n), _opened(root / "open", n)
    told = {"cell_ms": seconds, "driver_cpu_ms": spent, "sync_ms": peer, "resume_ms": opening, "seal_ms": sealing}
    note({"engine": engine, "cells": n, "cells_per_second": n / seconds,
          **{name: value * 1e3 / n for name, value in told.items()}})  # fmt: skip
    case, bound = f"{n:,} cells, {engine}", seconds / peer
    return Row(case, "appended lines, each synced", seconds, peer, peer / seconds, abs(kept - n) / n, bound)


def _measure(root: Path, n: int, crew: Crew | None) -> tuple[float, float, int]:
    """(seconds of n cells, the processor's of sealing the folder, cells that it then has)."""
    units = {f"u{i}": Simulated(i) for i in range(n)}
    begun = time.monotonic()
    writer = RunWriter.open(root, "run", {"simulated": n}, n, worker="0")
    with stopping(writer):
        work_off([units], _at(writer), crew=crew, begin=partial(_station, root.resolve(), n))
    seconds = time.monotonic() - begun
    sealing = processor_seconds(lambda: writer.finish({}))
    return seconds, sealing, len(set(open_run(root / "run").records["hook"]))


def _station(root: Path, n: int, number: int) -> Station:
    return _at(RunWriter.open(root, "run", {"simulated": n}, n, worker=str(number)))


def _at(writer: RunWriter) -> Station:
    return Station(_nothing, Folder(writer, lambda writer, key, unit, found: found))


def _nothing(unit: Simulated) -> tuple[list[Record], list[Losses]]:
    at: dict[str, Any] = {"behaviour": "b", "fit_domain": "a", "test_domain": "a", "metric": "read", "level": "linear"}
    record = Record(**at, hook=f"u{unit.number}", value=0.5, low=0.4, high=0.6, n=1_000, groups=GROUPS)
    share = [1 / (1 + i) for i in range(GROUPS)]
    return [record], [Losses(record.id, [f"g{i}" for i in range(GROUPS)], share, share, [50] * GROUPS)]


def _opened(root: Path, n: int) -> float:
    """The processor's seconds of opening a folder of n cells again, which is what resuming adds."""
    writer = RunWriter.open(root, "run", {"simulated": n}, n)
    line = _line(writer)
    with (writer.path / "cells-0.jsonl").open("wb") as file:
        file.writelines(line for _ in range(n))
    writer.interrupt()
    return processor_seconds(lambda: RunWriter.open(root, "run", {"simulated": n}, n).close())


def _appended(path: Path, n: int) -> float:
    """Seconds of n lines of a cell's size, appended and synced one by one; beyond 2,000 as those are."""
    line, some = b"x" * 1_500, min(n, 2_000)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    begun = time.monotonic()
    try:
        for _ in range(some):
            os.write(handle, line)
            os.fsync(handle)
        return (time.monotonic() - begun) * n / some
    finally:
        os.close(handle)


def _line(writer: RunWriter) -> bytes:
    records, losses = _nothing(Simulated(0))
    writer.write_cell("u0", records, losses, seconds=0.0)
    return (writer.path / "cells-0.jsonl").read_bytes()


def _file_of(n: int) -> Sweep:
    """A file of n jobs, checked: four keys of a grid and seeds."""
    models = [{"name": f"m{i}"} for i in range(10)]
    task = {"file": "rows.csv", "text": "text", "behaviours": [{"name": "b", "kind": "label", "column": "label"}]}
    return Sweep.check({"name": "s", "models": models, "seeds": list(range(n // 10)), "task": task}, "the bench")
