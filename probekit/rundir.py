"""Run folders: what a measurement leaves on disk, written crash-safe and read back without torch.

    runs/<run>/
        spec.json               what was asked; a folder belongs to one spec
        status.json             running | interrupted | failed | complete, counts and failed cells; advisory only
        cells-<worker>.jsonl    one fsynced line per finished cell, until the run is finished
        log-<worker>.txt        tracebacks of failed cells, for people; no part of the seal
        tables/<name>.parquet   example tables        directions/<name>.safetensors   tensors
        records.parquet  losses.parquet  cells.parquet
        manifest.json           written last: present means complete and, from then on, never written to again

No decision is taken from status.json or from a clock: the lines and the manifest decide.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from probekit.errors import BadInput, RunError
from probekit.records import SCHEMA_VERSION, Losses, Record, digest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_JSON = 64 * 2**20  # bytes of a manifest, spec or status that a reader is willing to parse
_MANIFEST, _RECORDS, _LOSSES, _CELLS = "manifest.json", "records.parquet", "losses.parquet", "cells.parquet"

_SITES, _TOGETHER = "sites", ("band_low", "band_high", "p_max")  # of a curve over hook points
_INTEGERS = ("layer", "k", "parameters", "seed_probe", "seed_data", "seed_model", "n", "groups")
_FLOATS = ("value", "low", "high", "raw", "bits", "floor_bits", "ceiling_bits", "p99_bits", "worst_group")
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
_CELL_SCHEMA = pa.schema([("cell", pa.string()), ("ok", pa.bool_()), ("error", pa.string()), ("seconds", pa.float64())])


# ---------------------------------------------------------------------------------------------------------- writing


@dataclass
class RunWriter:
    """Writes one run folder. Several processes may write to one folder if each names its own `worker`."""

    path: Path
    spec: dict
    n_cells: int
    worker: str = "0"
    complete: bool = False
    _done: set[str] = field(default_factory=set, repr=False)
    _failed: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, root: Path, run: str, spec: dict, n_cells: int, *, worker: str = "0") -> "RunWriter":
        """Create `root/run`, or resume it. A finished folder opens with `complete` set and refuses every write.

        Raises RunError when the folder was started from another spec, BadInput for a name that is not a plain one.
        """
        path = _inside(Path(root), run)
        writer = cls(path, json.loads(_json(spec, "the spec")), n_cells, _name(worker))
        path.mkdir(parents=True, exist_ok=True)
        _sync_folder(path.parent)
        spec_file = path / "spec.json"
        if not spec_file.exists():
            _publish(spec_file, _json(writer.spec, "the spec").encode())
        found = _read_json(spec_file)
        if found != writer.spec:
            raise RunError(
                f"{path} was started from another spec (its digest is {digest(found)}, this one's "
                f"{digest(writer.spec)}): give the run another name, or remove the folder."
            )
        if (path / _MANIFEST).exists():
            writer.complete = True
            writer._done = set(open_run(path).cells.query("ok")["cell"])
            return writer
        scan = _scan(path)
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
        for cell, line in _scan(self.path).ok.items():
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
            "records": [_plain(asdict(record)) for record in records],
            "losses": [_plain(asdict(loss)) for loss in losses],
        }
        text = _json(body, f"cell {cell}")
        check = hashlib.sha256(text.encode()).hexdigest()[:16]
        # Spliced in, since serialising a large cell twice costs more than writing it; a reader takes the sum out again.
        line = f'{{"sum":"{check}",{text[1:]}\n'
        _append(self.path / f"cells-{self.worker}.jsonl", line.encode())
        if error is None:
            self._done.add(cell)
            self._failed.pop(cell, None)
        elif cell not in self._done:
            self._failed[cell] = error
        self._status("running")

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write an example table (counterexamples, curves, histograms). A later call with the same name wins."""
        self._writable()
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink, compression="zstd")
        self._side("tables", f"{_name(name)}.parquet", sink.getvalue().to_pybytes())

    def write_tensors(self, name: str, tensors: Mapping[str, np.ndarray]) -> None:
        """Write directions or probes, as safetensors."""
        from safetensors.numpy import save

        self._writable()
        arrays = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        self._side("directions", f"{_name(name)}.safetensors", save(arrays))

    def write_log(self, text: str) -> Path:
        """Append to the folder's log, which is for people and no part of what is sealed; its path."""
        self._writable()
        path = self.path / f"log-{self.worker}.txt"
        _append(path, text.rstrip("\n").encode() + b"\n")
        return path

    def interrupt(self) -> None:
        """Note that the user stopped; everything finished stays and the same spec resumes."""
        if not self.complete:
            self._status("interrupted")

    def fail(self, error: str) -> None:
        """Note that the run cannot go on, and why."""
        if not self.complete:
            self._status("failed", error)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Compact the lines to Parquet and seal the folder. `manifest` is provenance: versions, audit, timings.

        Raises RunError while a cell is neither finished nor failed. Safe to repeat after a crash at any point.
        """
        self._writable()
        scan = _scan(self.path)
        if len(scan.ok) + len(scan.failed) < self.n_cells:
            raise RunError(
                f"{self.path} cannot be finished: {len(scan.ok)} of {self.n_cells} cells are done and "
                f"{len(scan.failed)} failed."
            )
        records, losses, cells = scan.tables()
        for name, table in ((_RECORDS, records), (_LOSSES, losses), (_CELLS, cells)):
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            _publish(self.path / name, sink.getvalue().to_pybytes())
        sealed = [_RECORDS, _LOSSES, _CELLS, "spec.json"]
        sealed += [f"tables/{f.name}" for f in sorted((self.path / "tables").glob("*.parquet"))]
        sealed += [f"directions/{f.name}" for f in sorted((self.path / "directions").glob("*.safetensors"))]
        body = {
            "schema_version": SCHEMA_VERSION,
            "run": self.path.name,
            "spec": self.spec,
            "spec_hash": digest(self.spec),
            "files": {
                name: {"bytes": (self.path / name).stat().st_size, "sha256": _sha256(self.path / name)}
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
            "provenance": _plain(dict(manifest)),
        }
        body["digest"] = digest(body, 64)
        _publish(self.path / _MANIFEST, _json(body, "the manifest").encode())
        self._status("complete")
        self.complete = True
        # Only after the seal: until then the lines are the only copy.
        for lines in self.path.glob("cells-*.jsonl"):
            lines.unlink()

    def _writable(self) -> None:
        if self.complete or (self.path / _MANIFEST).exists():
            raise RunError(f"{self.path} is complete and is never written to again; give the new run another name.")

    def _side(self, folder: str, name: str, data: bytes) -> None:
        (self.path / folder).mkdir(exist_ok=True)
        _publish(self.path / folder / name, data)

    def _status(self, state: str, error: str = "") -> None:
        status = {
            "run": self.path.name,
            "state": state,
            "done": len(self._done),
            "total": self.n_cells,
            "failed": [{"cell": cell, "error": text} for cell, text in self._failed.items()],
            "error": error,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # The one file that is replaced: nothing is decided from it, and a torn one is read as "unknown".
        temp = self.path / f".status-{secrets.token_hex(4)}"
        temp.write_text(json.dumps(status, indent=1))
        os.replace(temp, self.path / "status.json")


def _append(path: Path, line: bytes) -> None:
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
        _sync_folder(path.parent)


def _publish(path: Path, data: bytes) -> None:
    """Write a temporary file, fsync it and link it to `path`: a name either does not exist or is whole.

    A sealed file is never overwritten. Before the seal, a leftover of an earlier attempt with other content is
    unlinked first, since nothing refers to it yet.
    """
    temp = path.parent / f".{path.name}-{secrets.token_hex(4)}"
    try:
        with open(temp, "xb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        try:
            os.link(temp, path)
        except FileExistsError:
            if path.name == _MANIFEST or path.read_bytes() == data:
                return  # the first writer wins
            path.unlink()
            os.link(temp, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror}); free some space and run it again.") from None
    finally:
        temp.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Run:
    """A run folder, read. `problem` is empty for a complete and intact one, else one sentence.

    Frames are loaded on first use and checked against the manifest's digests then.
    """

    path: Path
    manifest: dict | None
    status: dict
    problem: str = ""
    torn: int = 0

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec(self) -> dict:
        """What was asked; empty when even that is unreadable."""
        if self.manifest:
            return self.manifest["spec"]
        try:
            return _read_json(self.path / "spec.json")
        except RunError:
            return {}

    @property
    def fingerprint(self) -> str:
        """Changes whenever what can be read changes: the key that a page caches on."""
        if self.manifest:
            return self.manifest["digest"]
        sizes = {f.name: f.stat().st_size for f in sorted(self.path.glob("cells-*.jsonl"))}
        return digest({"path": str(self.path), "lines": sizes, "problem": self.problem})

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row per record: `id`, the fields of Record, `seed` (the probe's). Numbers missing are NaN or NA.

        With the run's table `sites` also what is said of a record's whole curve: band_low, band_high, p_max.
        """
        if self.manifest is None:
            table = self._lines[0]
        else:
            table = self._parquet(_RECORDS)
        frame = _record_frame(table)
        if _SITES in self.tables:
            together = self.table(_SITES).reindex(columns=["record", *_TOGETHER]).rename(columns={"record": "id"})
            together = together.astype({"id": str} | dict.fromkeys(_TOGETHER, "float64")).drop_duplicates("id")
            frame = frame.merge(together, how="left", on="id")
        frame.attrs.update(path=str(self.path), manifest=self.manifest)
        return frame

    @cached_property
    def losses(self) -> pd.DataFrame:
        """record, group, numerator, denominator, n: sums per group, all records. See `losses_of` for a few."""
        return (self._lines[1] if self.manifest is None else self._parquet(_LOSSES)).to_pandas()

    def losses_of(self, *record_ids: str) -> pd.DataFrame:
        """The losses of these records only, through DuckDB: a drill-down does not load the whole file."""
        con = self._view
        sql = 'select * from losses where record in (select unnest($ids)) order by record, "group"'
        return con.cursor().execute(sql, {"ids": list(record_ids)}).df()

    @cached_property
    def cells(self) -> pd.DataFrame:
        """cell, ok, error, seconds: one row per unit of work."""
        return (self._lines[2] if self.manifest is None else self._parquet(_CELLS)).to_pandas()

    @property
    def tables(self) -> list[str]:
        """Names of the example tables."""
        if self.manifest is None:
            return sorted(f.stem for f in (self.path / "tables").glob("*.parquet") if _NAME.fullmatch(f.stem))
        return sorted(Path(name).stem for name in self.manifest["files"] if name.startswith("tables/"))

    def table(self, name: str) -> pd.DataFrame:
        """An example table by name."""
        if name not in self.tables:
            listed = ", ".join(self.tables) or "none"
            raise RunError(f"{self.path} has no table '{name}'; it has {listed}.")
        return self._parquet(f"tables/{name}.parquet").to_pandas()

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """Directions or probes written under `name`."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.path / "directions" / f"{_name(name)}.safetensors"
        try:
            return load(self._checked(path))
        except SafetensorError:
            raise RunError(f"{path} is not a safetensors file.") from None

    @cached_property
    def _lines(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        return _scan(self.path).tables()

    @cached_property
    def _view(self) -> Any:
        import duckdb

        con = duckdb.connect(":memory:")
        if self.manifest is None:
            con.register("lines", self._lines[1])
            con.execute("create table losses as select * from lines")  # what is registered is hidden from cursors
        else:
            path = self.path / _LOSSES
            self._checked(path)
            con.execute(f"set allowed_paths = [{_quoted(str(path.resolve()))}]")  # settings take no parameters
            con.read_parquet(str(path.resolve())).create_view("losses")
        con.execute("set enable_external_access = false")
        con.execute("set lock_configuration = true")
        return con

    def _parquet(self, name: str) -> pa.Table:
        path = self.path / name
        try:
            return pq.read_table(pa.BufferReader(self._checked(path)))
        except (pa.ArrowInvalid, OSError):
            raise RunError(f"{path} is not readable as Parquet; remove the folder and run its spec again.") from None

    def _checked(self, path: Path) -> bytes:
        """The bytes of a file, compared with the manifest's digest when there is one."""
        if path.is_symlink() or not path.is_file():
            raise RunError(f"{path} is missing.")
        data = path.read_bytes()
        if self.manifest is not None:
            entry = self.manifest["files"].get(path.relative_to(self.path).as_posix())
            if entry is None:
                raise RunError(f"{path} is not part of its run: the manifest does not name it.")
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise RunError(
                    f"{path} does not match its manifest's digest; remove the folder and run its spec again."
                )
        return data


def open_run(path: Path | str, *, partial: bool = False) -> Run:
    """Open a run folder. Raises RunError, in one sentence, for one that is missing, unfinished or broken.

    With `partial` only a missing folder raises: an unfinished or broken one comes back with `problem` set, and with
    what can be read of it.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunError(f"no run folder {path}; `probekit ls` lists the runs.")
    status = _status_of(path)
    try:
        manifest = _manifest_of(path)
    except RunError as error:
        if partial:
            return Run(path, None, status, str(error))
        raise
    if manifest is not None:
        return Run(path, manifest, status)
    if not (path / "spec.json").is_file():
        problem, torn = f"{path} is not a run folder: it has neither a manifest nor a spec.json.", 0
    else:
        scan = _scan(path)
        total = status.get("total")
        torn = scan.torn
        count = f"{len(scan.ok)} of {total} cells are" if total else f"{len(scan.ok)} cells are"
        failed = f" and {len(scan.failed)} failed" if scan.failed else ""
        problem = f"{path} is not finished: {count} done{failed}; `probekit run SPEC` goes on from there."
    if partial:
        return Run(path, None, status, problem, torn)
    raise RunError(problem)


def read_run(path: Path | str) -> pd.DataFrame:
    """The records of a complete run; `attrs` has its path and manifest. Raises RunError as open_run does."""
    return open_run(path).records


def list_runs(root: Path | str = "runs") -> list[Run]:
    """Every run folder under `root`, complete or not, the latest first. A root that does not exist holds no runs."""
    root = Path(root)
    if not root.is_dir():
        return []
    runs = [
        open_run(folder, partial=True)
        for folder in root.iterdir()
        if folder.is_dir() and not folder.is_symlink() and _NAME.fullmatch(folder.name)
        and any((folder / name).exists() for name in ("spec.json", _MANIFEST, "status.json"))
    ]  # fmt: skip
    return sorted(runs, key=lambda run: (run.status.get("updated", ""), run.name), reverse=True)


def find_run(name: str, root: Path | str = "runs") -> Path:
    """A run by path, by its name under `root`, or the most recent one for "latest"."""
    if name == "latest":
        runs = list_runs(root)
        if not runs:
            raise RunError(f"no runs under {root}; start one with `probekit run SPEC`.")
        return runs[0].path
    if _NAME.fullmatch(name) and (Path(root) / name).is_dir():
        return Path(root) / name
    if Path(name).is_dir():
        return Path(name)
    from difflib import get_close_matches

    near = get_close_matches(name, [run.name for run in list_runs(root)], n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else " `probekit ls` lists the runs."
    raise RunError(f"no run '{name}', neither a folder nor a name under {root}.{hint}")


def _status_of(path: Path) -> dict:
    try:
        status = _read_json(path / "status.json")
    except RunError:
        return {"state": "unknown", "failed": []}
    good = isinstance(status.get("state"), str) and isinstance(status.get("updated", ""), str)
    return status if good and isinstance(status.get("failed", []), list) else {"state": "unknown", "failed": []}


def _manifest_of(path: Path) -> dict | None:
    """The manifest, checked strictly: schema, its own digest, and every file's presence and size. None without one."""
    file = path / _MANIFEST
    if not file.exists():
        return None
    manifest = _read_json(file)
    types = {"schema_version": int, "run": str, "spec": dict, "spec_hash": str, "files": dict, "cells": dict,
             "provenance": dict, "digest": str}  # fmt: skip
    for key, kind in types.items():
        if not isinstance(manifest.get(key), kind):
            raise RunError(
                f"{file} is broken: '{key}' is missing or of another type; remove the folder and run its spec again."
            )
    if manifest["schema_version"] > SCHEMA_VERSION:
        raise RunError(
            f"{path} was written with record schema {manifest['schema_version']} and this probekit reads up to "
            f"{SCHEMA_VERSION}; upgrade probekit."
        )
    if manifest["digest"] != digest({key: value for key, value in manifest.items() if key != "digest"}, 64):
        raise RunError(f"{file} is broken: it does not match its own digest; remove the folder and run its spec again.")
    for name in (_RECORDS, _LOSSES, _CELLS, "spec.json"):
        if name not in manifest["files"]:
            raise RunError(f"{file} is broken: it names no {name}; remove the folder and run its spec again.")
    for name, entry in manifest["files"].items():
        sealed = path / name
        if not all(_NAME.fullmatch(part) for part in Path(name).parts):
            raise RunError(f"{file} is broken: it names '{name}', which is no plain file name.")
        if sealed.is_symlink() or not sealed.is_file():
            raise RunError(f"{path} is broken: {name} is missing; remove the folder and run its spec again.")
        if sealed.stat().st_size != entry["bytes"]:
            raise RunError(
                f"{path} is broken: {name} has {sealed.stat().st_size} bytes and the manifest says {entry['bytes']}; "
                "remove the folder and run its spec again."
            )
    if _sha256(path / "spec.json") != manifest["files"]["spec.json"]["sha256"]:
        raise RunError(f"{path} is broken: spec.json is not the manifest's; remove the folder and run its spec again.")
    return manifest


@dataclass
class _Scan:
    """What the lines of a folder say: the first ok line of each cell, the last failed line of the others."""

    ok: dict[str, dict] = field(default_factory=dict)
    failed: dict[str, dict] = field(default_factory=dict)
    torn: int = 0

    def tables(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """(records, losses, cells) as Arrow tables, records unique by id."""
        names = [f.name for f in fields(Record)]
        records: dict[str, dict] = {}
        losses: list[dict] = []
        cells = []
        for line in (*self.ok.values(), *self.failed.values()):
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


def _scan(path: Path) -> _Scan:
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


def _record_frame(table: pa.Table) -> pd.DataFrame:
    """Arrow to pandas with one dtype per column, whatever is missing; a column older than the file gets its default."""
    frame = table.to_pandas()
    for f in fields(Record):
        if f.name not in frame:
            frame[f.name] = f.default
    frame = frame.astype({name: "Int64" for name in _INTEGERS} | {name: "float64" for name in _FLOATS})
    frame["seed"] = frame["seed_probe"]
    return frame


_PRIMITIVE = (str, int, float, bool, type(None))  # exact types: a NumPy float is a float too, and is converted


def _plain(value: Any) -> Any:
    """The value with NumPy scalars and arrays, tuples and paths turned into what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): item if type(item) in _PRIMITIVE else _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple | set):
        return [item if type(item) in _PRIMITIVE else _plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _json(value: Any, what: str) -> str:
    try:
        return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{what} cannot be written as JSON: {error}.") from None


def _read_json(path: Path) -> dict:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise RunError(f"{path} is broken: {path.stat().st_size} bytes is more than a reader parses.")
        value = json.loads(path.read_text())
    except OSError:
        raise RunError(f"{path} is missing or unreadable.") from None
    except (ValueError, RecursionError):
        raise RunError(f"{path} is broken: it is not JSON.") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} is broken: it is not a JSON object.")
    return value


def _sha256(path: Path) -> str:
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadInput(f"'{name}' is no plain name: letters, digits and ._- only, at most 100, no leading dot or dash.")
    return name


def _inside(root: Path, name: str) -> Path:
    path = root / _name(name)
    if path.is_symlink() or path.resolve().parent != root.resolve():
        raise BadInput(f"{path} leads out of {root}: a run is a plain folder in it.")
    return path


def _quoted(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
