"""RunWriter: a run folder while it is filled, line by line, until a manifest seals it."""

import hashlib
import json
import os
import secrets
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from probekit.errors import RunError, RunHeld, RunOver
from probekit.records import SCHEMA_VERSION, Losses, Record, digest
from probekit.storage.files import check_name, inside, plain_json, read_json, sha256_of, sync_folder, take_lock, to_json
from probekit.storage.lines import (
    CELLS,
    LOCK,
    LOSSES,
    MANIFEST,
    RECORDS,
    ROW_SCHEMA,
    ROWS,
    append_line,
    publish_file,
    scan_lines,
)
from probekit.storage.runs import open_run

DRIVER = "0"  # the worker that keeps the status


@dataclass
class RunWriter:
    """Writes one run folder. Several processes may write to one folder if each names its own `worker`.

    Each holds a lock of its own until it stops or ends, so that a reader can tell a run that is measured from one that
    was killed. The worker "0" keeps the run's status; the others leave it alone.
    """

    path: Path
    spec: dict
    n_cells: int
    worker: str = DRIVER
    complete: bool = False
    _done: set[str] = field(default_factory=set, repr=False)
    _failed: dict[str, str] = field(default_factory=dict, repr=False)
    _unlock: Callable[[], Any] = field(default=lambda: None, repr=False)
    _doing: dict[str, Any] = field(default_factory=dict, repr=False)
    _told: float = field(default=0.0, repr=False)  # when the status was written last

    @classmethod
    def open(cls, root: Path, run: str, spec: dict, n_cells: int, *, worker: str = DRIVER) -> "RunWriter":
        """Create `root/run`, or resume it. A finished folder opens with `complete` set and refuses every write.

        Raises RunError when the folder was started from another spec or another process writes to it under the same
        name, BadInput for a name that is not a plain one.
        """
        path = inside(Path(root), run)
        writer = cls(path, json.loads(to_json(spec, "the spec")), n_cells, check_name(worker))
        path.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent, RunError)
        spec_file = path / "spec.json"
        if not spec_file.exists():
            publish_file(spec_file, to_json(writer.spec, "the spec").encode())
        found = read_json(spec_file)
        if found != writer.spec:
            raise RunError(
                f"{path} was started from another spec (its digest is {digest(found)}, this one's "
                f"{digest(writer.spec)}): give the run another name, or remove the folder."
            )
        if (path / MANIFEST).exists():
            writer.complete = True
            writer._done = set(open_run(path).cells.query("ok")["cell"])
            return writer
        writer._take()
        scan = scan_lines(path)
        writer._done, writer._failed = set(scan.ok), {cell: line["error"] for cell, line in scan.failed.items()}
        writer._status("running")
        return writer

    @property
    def done(self) -> set[str]:
        """Cells that finished without an error; the others are to be (re)done."""
        return set(self._done)

    def finished(self) -> dict[str, tuple[list[Record], list[Losses]]]:
        """Records and losses of every finished cell, as its line has them."""
        names = [f.name for f in fields(Record)]
        out = {}
        for cell, line in scan_lines(self.path).ok.items():
            records = [Record(**{key: value for key, value in raw.items() if key in names}) for raw in line["records"]]
            out[cell] = records, [Losses(**raw) for raw in line["losses"]]
        return out

    def write_cell(
        self,
        cell: str,
        records: Iterable[Record],
        losses: Iterable[Losses],
        *,
        error: str | None = None,
        seconds: float,
    ) -> None:
        """Append one finished cell as one fsynced line. When this returns, the cell survives a power cut.

        A failed cell has an `error` and may carry records with na_reason "failed"; it is retried on resume, and its
        records count only if no line of the cell is ok. Raises BadInput for a figure that is not finite.
        """
        self._writable()
        body = {
            "cell": cell,
            "ok": error is None,
            "error": error or "",
            "seconds": float(seconds),
            "records": [vars(record) for record in records],
            "losses": [vars(loss) for loss in losses],
        }
        text = to_json(body, f"cell {cell}")
        check = hashlib.sha256(text.encode()).hexdigest()[:16]
        # Spliced in, since serialising a large cell twice costs more than writing it; a reader takes the sum out again.
        line = f'{{"sum":"{check}",{text[1:]}\n'
        append_line(self.path / f"cells-{self.worker}.jsonl", line.encode())
        self.count(cell, error)

    def count(self, cell: str, error: str | None = None) -> None:
        """Take note of a cell that is written, by this worker or another: its name, and why it failed if it did."""
        if error is None:
            self._done.add(cell)
            self._failed.pop(cell, None)
        elif cell not in self._done:
            self._failed[cell] = error
        self.beat(every=0.5 if error is None or len(self._failed) > 100 else 0.0)  # the first failures are told at once

    def beat(self, what: str | None = None, left: float | None = None, *, every: float = 0.5) -> None:
        """Tell that this process is at work, if it was last told `every` seconds ago. left: seconds, where known."""
        if what is not None:
            self._doing = {"doing": what, "left": None if left is None else round(left)}
        if not self.complete and time.monotonic() - self._told >= every:
            self._status("running")

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write an example table (counterexamples, curves, histograms). A later call with the same name wins."""
        self._writable()
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink, compression="zstd")
        self._side("tables", f"{check_name(name)}.parquet", sink.getvalue().to_pybytes())

    def write_rows(self, name: str, parts: Iterable[Mapping[str, Any]]) -> None:
        """Write bits per row, a reader after the other: of each part `hook`, `behaviour`, `rule`, `level`, `source` and
        `k`, one value each, `row` and `bits` [n]; where it says a law also `said`, `confidence` and `agreed` [n].

        A group of rows of the file is one reader, so that one can be read without the others.
        """
        self._writable()
        sink = pa.BufferOutputStream()
        how = {"compression": "zstd", "use_dictionary": ["hook", "behaviour", "rule", "level", "source", "k"],
               "column_encoding": {"row": "DELTA_BINARY_PACKED", "bits": "BYTE_STREAM_SPLIT"}}  # fmt: skip
        with pq.ParquetWriter(sink, ROW_SCHEMA, **how) as file:
            for part in parts:
                n = len(part["row"])
                told = dict.fromkeys(ROW_SCHEMA.names) | dict(part)
                columns = {key: v if isinstance(v, np.ndarray) else [v] * n for key, v in told.items()}
                file.write_table(pa.table(columns, schema=ROW_SCHEMA), row_group_size=max(1, n))
        self._side(ROWS, f"{check_name(name)}.parquet", sink.getvalue().to_pybytes())

    def write_tensors(self, name: str, tensors: Mapping[str, np.ndarray]) -> None:
        """Write directions or probes, as safetensors."""
        from safetensors.numpy import save

        self._writable()
        arrays = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        self._side("directions", f"{check_name(name)}.safetensors", save(arrays))

    def write_log(self, text: str) -> Path:
        """Append to the folder's log, which is for people and no part of what is sealed; its path."""
        self._writable()
        path = self.path / f"log-{self.worker}.txt"
        append_line(path, text.rstrip("\n").encode() + b"\n")
        return path

    def interrupt(self) -> None:
        """Note that the user stopped; everything finished stays and the same spec resumes."""
        if not self.complete:
            self._status("stopped")
            self.close()

    def fail(self, error: str) -> None:
        """Note that the run cannot go on, and why."""
        if not self.complete:
            self._status("failed", error)
            self.close()

    def close(self) -> None:
        """Let go of the folder, for another process to write to."""
        self._unlock()

    def finish(self, manifest: Mapping[str, Any], order: Sequence[str] = ()) -> None:
        """Compact the lines to Parquet and seal the folder. `manifest` is provenance: versions, audit, timings.

        order: of the cells, so that records stand in the same order whoever measured which of them.

        Raises RunError while a cell is neither finished nor failed. Safe to repeat after a crash at any point.
        """
        self._writable()
        scan = scan_lines(self.path)
        if len(scan.ok) + len(scan.failed) < self.n_cells:
            raise RunError(
                f"{self.path} cannot be finished: {len(scan.ok)} of {self.n_cells} cells are done and "
                f"{len(scan.failed)} failed."
            )
        records, losses, cells = scan.tables(order)
        for name, table in ((RECORDS, records), (LOSSES, losses), (CELLS, cells)):
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            publish_file(self.path / name, sink.getvalue().to_pybytes())
        sealed = [RECORDS, LOSSES, CELLS, "spec.json"]
        sealed += [f"tables/{f.name}" for f in sorted((self.path / "tables").glob("*.parquet"))]
        sealed += [f"{ROWS}/{f.name}" for f in sorted((self.path / ROWS).glob("*.parquet"))]
        sealed += [f"directions/{f.name}" for f in sorted((self.path / "directions").glob("*.safetensors"))]
        body = {
            "schema_version": SCHEMA_VERSION,
            "run": self.path.name,
            "spec": self.spec,
            "spec_hash": digest(self.spec),
            "files": {
                name: {"bytes": (self.path / name).stat().st_size, "sha256": sha256_of(self.path / name)}
                for name in sealed
            },
            "n_records": records.num_rows,
            "n_losses": losses.num_rows,
            "cells": {
                "total": self.n_cells,
                "ok": len(scan.ok),
                "failed": [{"cell": cell, "error": line["error"]} for cell, line in scan.failed.items()],
                "torn_lines": scan.torn,
            },
            "provenance": plain_json(dict(manifest)),
        }
        body["digest"] = digest(body, 64)
        publish_file(self.path / MANIFEST, to_json(body, "the manifest").encode())
        self._status("complete")
        self.complete = True
        # Only after the seal: until then the lines are the only copy.
        for lines in self.path.glob("cells-*.jsonl"):
            lines.unlink()
        for lock in self.path.glob(f"{LOCK}*"):
            lock.unlink(missing_ok=True)
        self.close()

    def _take(self) -> None:
        handle = take_lock(self.path / f"{LOCK}{self.worker}")
        if handle is None:
            raise RunHeld(f"{self.path} is being measured by another process: wait until that ends, or stop it first.")
        self._unlock = weakref.finalize(self, os.close, handle)

    def _writable(self) -> None:
        if self.complete or (self.path / MANIFEST).exists():
            raise RunOver(f"{self.path} is complete and is never written to again; give the new run another name.")

    def _side(self, folder: str, name: str, data: bytes) -> None:
        (self.path / folder).mkdir(exist_ok=True)
        publish_file(self.path / folder / name, data)

    def _status(self, state: str, error: str = "") -> None:
        if self.worker != DRIVER:
            return
        self._told = time.monotonic()
        status = {
            "run": self.path.name,
            "state": state,
            "done": len(self._done),
            "total": self.n_cells,
            "failed": [{"cell": cell, "error": text} for cell, text in dict(self._failed).items()],
            "error": error,
            **(self._doing if state == "running" else {}),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # The one file that is replaced: nothing is decided from it, and a torn one is read as "unknown".
        temp = self.path / f".status-{secrets.token_hex(4)}"
        temp.write_text(json.dumps(status, indent=1), encoding="utf-8")
        os.replace(temp, self.path / "status.json")
