"""A run folder of what was measured in memory, so that pages, reports and comparisons are made of it as of a job's."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probekit.errors import BadInput
from probekit.jobs.cells import CELL_VERSION, Cell
from probekit.jobs.examples import Places, Tested, rows_by_reader
from probekit.jobs.manifest import answers_of, versions
from probekit.jobs.work import tensor_name
from probekit.measurement.outcome import Kept, Outcome
from probekit.measurement.sites import SITE_COLUMNS, SiteRow
from probekit.storage.lines import MANIFEST, OUTCOMES, TESTED
from probekit.storage.listing import keep_line, line_of
from probekit.storage.runs import open_run
from probekit.storage.runwriter import RunWriter
from probekit.task import Observations


def check_free(folder: Path) -> None:
    """Raise BadInput where a run is already kept: before anything is measured for it."""
    if (folder / MANIFEST).exists():
        raise BadInput(f"{folder} holds a finished run, which is never written to again: give another folder.")


def keep_run(
    folder: Path, asked: Mapping[str, Any], observations: Observations, places: Places,
    found: Mapping[Cell, tuple[Outcome, float]], sites: Sequence[SiteRow],
) -> None:  # fmt: skip
    """Write the folder. asked: what was read and how; found: of each cell what it gave, and its seconds."""
    spec = {"name": folder.name, "model": {"name": observations.model}, "task": {"name": observations.task}, **asked}
    writer = RunWriter.open(folder.parent, folder.name, spec, len(found))
    inputs, order, read = _digest(observations), [], {}
    for cell, (outcome, seconds) in found.items():
        order.append(cell.id(inputs))
        if cell.kind == "read" and isinstance(outcome.kept, Kept):
            read[cell] = outcome.kept
            if outcome.kept.rows is not None:
                writer.write_rows(tensor_name(cell), rows_by_reader(cell, outcome.kept.rows))
        writer.write_cell(order[-1], outcome.records, outcome.losses, seconds=seconds)
    tested = Tested(places, read)
    rows = tested.tested_rows()
    writer.write_table(TESTED, rows)
    writer.write_table(OUTCOMES, tested.outcomes())
    writer.write_table("texts", _texts(observations, rows))
    writer.write_table("sites", pd.DataFrame(sites, columns=list(SITE_COLUMNS)))
    writer.finish(_manifest(observations, places, found, inputs), order)
    run = open_run(folder)
    keep_line(run, line_of(run))


def _digest(seen: Observations) -> str:
    """Digest of the rows and what is known of them, which is no part of the network that is measured."""
    told = hashlib.sha256()
    for array in (seen.example, seen.position, seen.group, seen.domain):
        told.update(np.ascontiguousarray(array).tobytes())
    for name, behaviour in seen.behaviours.items():
        told.update(repr((name, list(behaviour.outcomes))).encode() + np.ascontiguousarray(behaviour.law).tobytes())
    return told.hexdigest()[:16]


def _texts(seen: Observations, tested: pd.DataFrame) -> pd.DataFrame:
    """The text of each row that was tested, where the floor was given texts; else none."""
    given = seen.floor_inputs.get("text")
    if given is None or given.dtype.kind not in "UO" or tested.empty:
        return pd.DataFrame({"example": [], "position": [], "text": []}).astype({"example": int, "position": int})
    rows = tested.drop_duplicates(["example", "position"])
    return rows[["example", "position"]].assign(text=[str(given[row]) for row in rows["row"]])


def _manifest(seen: Observations, places: Places, found: Collection[Cell], inputs: str) -> dict[str, Any]:
    """What the run says of itself; nothing of a capture, which nobody has seen."""
    probe, data, model = next(iter(places.values())).seeds
    labels = {name for name, one in seen.behaviours.items() if not one.is_value}
    return {
        "inputs": inputs,
        "model": {"name": seen.model, "revision": seen.revision},
        "task": {"name": seen.task, "fingerprint": seen.fingerprint or inputs, "n_rows": len(seen)},
        "behaviours": {name: answers_of(one, seen, labels - {name}) for name, one in seen.behaviours.items()},
        "cell_version": CELL_VERSION,
        "seeds": {"probe": probe, "data": data, "model": model},
        "packages": versions(),
    }
