"""Lines of a run: records, losses and cells appended by a worker, read back with a torn end left out."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pandas as pd
import pyarrow as pa

from probekit.errors import RunError
from probekit.records import Record
from probekit.storage.files import changing, publish, sync_folder

MANIFEST, RECORDS, LOSSES, CELLS = "manifest.json", "records.parquet", "losses.parquet", "cells.parquet"
ROWS, TESTED = "rows", "tested_rows"  # the folder of bits per row and reader; the table that says which rows they are
OUTCOMES = "outcomes"  # the table of the names of what readers say
LOCK = ".lock-"  # and the worker's name: held while it works
SITES, TOGETHER = "sites", ("band_low", "band_high", "p_max", "select_bits")  # of a curve over hook points
_INTEGERS = ("layer", "k", "parameters", "seed_probe", "seed_data", "seed_model", "n", "groups", "n_fit",
             "d_read")  # fmt: skip
_FLOATS = ("value", "low", "high", "raw", "bits", "floor_bits", "ceiling_bits", "p99_bits", "worst_group",
           "n_fit_effective", "falls", "falls_low", "falls_high", "auroc", "accuracy", "r2")  # fmt: skip
_RECORD_SCHEMA = pa.schema(
    [("id", pa.string())]
    + [
        (f.name, pa.int64() if f.name in _INTEGERS else pa.float64() if f.name in _FLOATS else pa.string())
        for f in fields(Record)
    ]
)
_LOSS_SCHEMA = pa.schema(
    [("record", pa.string()), ("group", pa.string()), ("numerator", pa.float64()), ("denominator", pa.float64()),
     ("n", pa.int64())]
)  # fmt: skip
ROW_SCHEMA = pa.schema(
    [("hook", pa.string()), ("behaviour", pa.string()), ("rule", pa.string()), ("level", pa.string()),
     ("source", pa.string()), ("k", pa.int32()), ("row", pa.int32()), ("bits", pa.float32()),
     ("said", pa.int16()), ("confidence", pa.float32()), ("agreed", pa.float32())]
)  # fmt: skip
_CELL_SCHEMA = pa.schema([("cell", pa.string()), ("ok", pa.bool_()), ("error", pa.string()), ("seconds", pa.float64())])


def append_line(path: Path, line: bytes) -> None:
    """Append `line` in one write and fsync it; a torn end left by a crash is first closed with a newline."""
    fresh = not path.exists()
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(fd, line)
        while written < len(line):
            written += os.write(fd, line[written:])
        os.fsync(fd)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror}); free some space and run it again.") from None
    finally:
        os.close(fd)
    if fresh:
        sync_folder(path.parent, RunError)


def publish_file(path: Path, data: bytes) -> None:
    """Publish a file of a run: a name either does not exist or is whole.

    A sealed file is never overwritten. Before the seal, a leftover of an earlier attempt with other content is
    unlinked first, since nothing refers to it yet.
    """
    if publish(path.parent, path, data, RunError) or path.name == MANIFEST or path.read_bytes() == data:
        return  # the first writer wins
    with changing(path, RunError):
        path.unlink(missing_ok=True)
    publish(path.parent, path, data, RunError)


@dataclass
class _Scan:
    """What the lines of a folder say: the first ok line of each cell, the last failed line of the others."""

    ok: dict[str, dict] = field(default_factory=dict)
    failed: dict[str, dict] = field(default_factory=dict)
    torn: int = 0

    def tables(self, order: Sequence[str] = ()) -> tuple[pa.Table, pa.Table, pa.Table]:
        """(records, losses, cells) as Arrow tables, records unique by id. order: of the cells."""
        rank = {cell: at for at, cell in enumerate(order)}
        names = [f.name for f in fields(Record)]
        records: dict[str, dict] = {}
        losses: list[dict] = []
        cells = []
        for line in sorted(
            (*self.ok.values(), *self.failed.values()), key=lambda one: rank.get(one["cell"], len(rank))
        ):
            cells.append({name: line[name] for name in ("cell", "ok", "error", "seconds")})
            fresh = set()
            for raw in line["records"]:
                record = Record(**{key: value for key, value in raw.items() if key in names})
                if record.id not in records:
                    records[record.id] = {"id": record.id, **asdict(record)}
                    fresh.add(record.id)
            for raw in line["losses"]:
                if raw["record"] not in fresh:
                    continue
                columns = (raw["group"], raw["numerator"], raw["denominator"], raw["n"])
                losses += [
                    {"record": raw["record"], "group": str(g), "numerator": a, "denominator": b, "n": n}
                    for g, a, b, n in zip(*columns, strict=True)
                ]
        return (
            pa.Table.from_pylist(list(records.values()), _RECORD_SCHEMA),
            pa.Table.from_pylist(losses, _LOSS_SCHEMA),
            pa.Table.from_pylist(cells, _CELL_SCHEMA),
        )


def scan_lines(path: Path) -> _Scan:
    """Read every cells-*.jsonl; a line that is torn or does not match its sum is ignored and counted."""
    scan = _Scan()
    for file in sorted(path.glob("cells-*.jsonl")):
        if file.is_symlink():
            continue
        for text in file.read_bytes().split(b"\n"):
            if not text:
                continue
            line = _line(text)
            if line is None:
                scan.torn += 1
            elif line["ok"]:
                scan.ok.setdefault(line["cell"], line)
            else:
                scan.failed[line["cell"]] = line
    for cell in scan.ok:
        scan.failed.pop(cell, None)
    return scan


def _line(text: bytes) -> dict | None:
    try:
        line = json.loads(text)
        expected = line.pop("sum")
        body = json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False)
        if hashlib.sha256(body.encode()).hexdigest()[:16] == expected:
            return line
    except (ValueError, KeyError, AttributeError, TypeError):
        pass
    return None


def record_frame(table: pa.Table) -> pd.DataFrame:
    """Arrow to pandas with one dtype per column, whatever is missing; a column older than the file gets its default."""
    frame = table.to_pandas()
    for f in fields(Record):
        if f.name not in frame:
            frame[f.name] = f.default
    frame = frame.astype({name: "Int64" for name in _INTEGERS} | {name: "float64" for name in _FLOATS})
    frame["seed"] = frame["seed_probe"]
    return frame
